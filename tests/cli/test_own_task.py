"""A task from a file, and controls, all the way: pruned, verified, viewed, and refused where the file does not fit."""

import base64
import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli_workspace import PRUNE, TASK, VERIFY, Ran, Thinwire, stamps

from thinwire import artifact
from thinwire.circuit import Circuit
from thinwire.prune import PruneConfig
from thinwire.verify import Verdict

OTHER_FILE = "circuit is of a task from another file; give the file it was pruned on"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A good file of 60 pairs."""
    return write(tmp_path / "quotes.jsonl", "w")


def write(path: Path, word: str) -> Path:
    splits = ["train"] * 30 + ["validation"] * 15 + ["heldout"] * 15
    lines = [
        {"prompts": [f"{word}{n} = 'a", f'{word}{n} = "a'], "answers": ["'\n", '"\n'], "split": split}
        for n, split in enumerate(splits)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def made(ran: Ran) -> dict:
    assert ran.code == 0, ran
    return ran.json


def tasks_of(page: Path) -> list[dict]:
    """The tasks in the payload of a page."""
    packed = page.read_text("utf-8").partition('id="data">')[2].partition("</script>")[0]
    return json.loads(gzip.decompress(base64.b64decode(packed)))["payload"]["tasks"]


@pytest.mark.parametrize("name", ["quotes", "quotes.nonsense"])
def test_from_a_file_to_a_page(name: str, file: Path, work: Path, thinwire: Thinwire, few_pairs: None) -> None:
    own = ["--task-file", file]
    circuit = Path(made(thinwire("prune", work / "model", "-t", name, *own, *PRUNE, "--json"))["out"])
    assert circuit == work / "circuits" / name
    found = made(thinwire("verify", circuit, *own, *VERIFY, "--json"))
    assert (found["task"], found["out"]) == (name, str(work / "verdicts" / name))
    parents = artifact.open_artifact(work / "verdicts" / name, "verdict").meta.parents
    of = {
        "circuit": artifact.open_artifact(circuit, "circuit"),
        "tokens": artifact.open_artifact(work / "tokens", "tokens"),
    }
    assert parents == {role: parent.id for role, parent in of.items()}
    before = stamps(work)
    assert made(thinwire("verify", circuit, *own, *VERIFY, "--json"))["loss"] == found["loss"]
    assert stamps(work) == before, "a finished verdict is reused"
    made(thinwire("view", circuit, work / "circuits" / TASK, *own, "--json"))
    assert [task["name"] for task in tasks_of(work / "index.html")] == [name, TASK]
    assert len(made(thinwire("info", circuit, "--json"))["task_source"]) == 16


def test_another_file_or_none(file: Path, work: Path, tmp_path: Path, thinwire: Thinwire, few_pairs: None) -> None:
    assert thinwire("prune", work / "model", "--task-file", file, *PRUNE).code == 0
    circuit = work / "circuits/quotes"
    assert thinwire("verify", circuit, "--task-file", file, *VERIFY).code == 0
    before = stamps(work)
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other/quotes.jsonl", "v")
    for words in (["verify", circuit, *VERIFY], ["verify", circuit, *VERIFY, "--force"], ["view", circuit]):
        thinwire(*words).refused("The quotes circuit is of a task from a file; give that file with --task-file.")
        thinwire(*words, "--task-file", other).refused(f"The quotes {OTHER_FILE}")
        thinwire(*words, "--task-file", tmp_path / "none.jsonl").refused("none.jsonl cannot be read")
    assert stamps(work) == before
    moved = file.rename(tmp_path / "moved.jsonl")
    for words in (["verify", circuit, *VERIFY], ["view", circuit]):
        assert thinwire(*words, "--task-file", moved).code == 0, "a file is known by what is in it"
    assert thinwire("view", circuit, "--text").out.startswith("quotes: "), "text needs no pairs"


def test_another_file_does_not_reuse_the_circuit(file: Path, work: Path, thinwire: Thinwire) -> None:
    words = ["prune", work / "model", "--task-file", file, *PRUNE]
    assert thinwire(*words).code == 0
    before = stamps(work / "circuits/quotes")
    write(file, "v")
    thinwire(*words).refused(
        "circuits/quotes is finished and differs in its task; choose another --out, or give --force"
    )
    assert stamps(work / "circuits/quotes") == before
    assert thinwire(*words, "--force").code == 0
    assert stamps(work / "circuits/quotes") != before
    assert thinwire("verify", work / "circuits/quotes", "--task-file", file, *VERIFY).code == 0


def test_a_control_of_a_registered_task(file: Path, work: Path, thinwire: Thinwire, few_pairs: None) -> None:
    name = f"{TASK}.swapped"
    circuit = work / "circuits" / name
    assert thinwire("prune", work / "model", "-t", name, *PRUNE).code == 0
    made(thinwire("view", circuit, work / "circuits" / TASK, "--json"))
    swapped, plain = tasks_of(work / "index.html")
    assert (swapped["name"], plain["name"]) == (name, TASK)
    sides = [[(p["first"], p["second"]) for p in task["pairs"]] for task in (swapped, plain)]
    for (one, other), (first, second) in zip(*sides, strict=True):
        assert (one["tokens"], other["tokens"]) == (first["tokens"], second["tokens"])
        assert (one["answer"], one["foil"]) == (first["foil"], first["answer"])
        assert (other["answer"], other["foil"]) == (second["foil"], second["answer"])
    found = made(thinwire("verify", circuit, *VERIFY, "--task-file", file, "--force", "--json"))
    assert found["task"] == name, "a file that is not needed does no harm"
    right, wrong = (Verdict.load(work / "verdicts" / each)["unpruned.accuracy"].value for each in (TASK, name))
    assert right + wrong == pytest.approx(1)
    assert made(thinwire("info", circuit, "--json"))["task_source"] is None


def test_info_says_how_a_circuit_runs(work: Path, thinwire: Thinwire) -> None:
    plain = made(thinwire("info", work / "circuits" / TASK, "--json"))
    assert (plain["frozen_norms"], plain["removed_tokens"]) == (False, 0)
    circuit, model = Circuit.load(work / "circuits" / TASK), artifact.open_artifact(work / "model", "model")
    held = torch.zeros(circuit.shape.d_model)
    other = replace(circuit, kept_edges=(), frozen_norms=True, removed_tokens=(3, 5), ablated_embedding=held)
    other.save(work / "circuits/other", PruneConfig(), model)
    found = made(thinwire("info", work / "circuits/other", "--json"))
    assert (found["kept_edges"], found["frozen_norms"], found["removed_tokens"]) == (0, True, 2)

"""What `thinwire view` writes: the suffix decides, a workspace is shown whole, and refusals come before any work."""

import json
import shutil
from pathlib import Path

import pytest
from cli_workspace import TASK, Thinwire, sign, stamps, with_nodes

from thinwire import artifact
from thinwire.stages import Workspace
from thinwire.view import size_plot
from thinwire.view.size_plot import SizeRecord, draw_sizes

BEGINS = {
    "a.svg": b"<?xml",
    "a.SVG": b"<?xml",
    "a.png": b"\x89PNG",
    "a.pdf": b"%PDF",
    "a.html": b"<!doctype html>",
}


def test_the_suffix_decides(work: Path, tmp_path: Path, thinwire: Thinwire, few_pairs: None) -> None:
    circuit, records = with_nodes(work), [SizeRecord("one", TASK, 0.1, 3)]
    for name, begins in BEGINS.items():
        assert thinwire("view", circuit, "--out", tmp_path / name, "--json").json["out"] == str(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begins), name
        if not name.endswith("html"):
            draw_sizes(records, tmp_path / f"plot.{name}")
            assert (tmp_path / f"plot.{name}").read_bytes().startswith(begins), name


def test_other_suffixes_are_refused_before_any_work(
    finished: Path, tmp_path: Path, thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch
) -> None:
    circuit, before = finished / "circuits" / TASK, stamps(finished)
    monkeypatch.setattr("thinwire.stages.Opened.open", pytest.fail)
    for name in ("a.gif", "a", "a.svg.gz", ".svg"):
        thinwire("view", circuit, "-o", tmp_path / name).refused("end its name in .html, .svg, .png or .pdf")
        thinwire("prune", finished / "model", "--tasks", TASK, "--ladder", "0.1", "--plot", tmp_path / name).refused(
            "end its name in .svg, .png or .pdf"
        )
    thinwire("view", finished / "model", "-o", tmp_path / "a.svg").refused("end its name in .html")
    thinwire("view", circuit, "--text", "-o", tmp_path / "a.txt.html").refused("--text prints")
    assert not list(tmp_path.iterdir())
    assert stamps(finished) == before
    assert size_plot.suffix_of(Path("a.PnG")) == ".png"


def test_a_workspace_is_shown_whole_and_circuits_of_a_task_apart(
    work: Path, thinwire: Thinwire, few_pairs: None
) -> None:
    shutil.copytree(work / "circuits" / TASK, work / "circuits" / "again")
    circuit = artifact.open_artifact(work / "circuits" / "again", "circuit")
    (work / "circuits" / ".scratch").mkdir()
    (work / "circuits" / "unfinished").mkdir()
    found = []
    for given in ([work], [work / "circuits"], [work, work / "circuits" / TASK]):
        ran = thinwire("view", *given, "--json").json
        found.append([Path(folder).name for folder in ran["circuits"]])
        assert ran["out"] == str(work / "index.html")
    assert found == [["again", TASK]] * 3
    thinwire("view", work, "--out", work / "a.svg").refused("A picture shows one circuit and 2 are given")
    texts = thinwire("view", work, "--text", "--json").json["circuits"]
    assert [text.partition(":")[0] for text in texts] == [TASK, TASK]
    assert circuit.id == artifact.open_artifact(work / "circuits" / TASK, "circuit").id
    shutil.rmtree(work / "circuits")
    (work / "circuits").mkdir()
    for without in ("", "circuits", "all"):
        remedy = f"has no finished circuit; make one with `thinwire prune {work / 'model'} --task TASK`"
        thinwire("view", work / without.replace("all", "")).refused(remedy)
        if without:
            shutil.rmtree(work / "circuits", ignore_errors=True)


def test_a_workspace_lists_what_is_finished_and_of_its_format(work: Path) -> None:
    circuits = work / "circuits"
    for name in (".hidden", "again"):
        shutil.copytree(circuits / TASK, circuits / name)
    shutil.copytree(work / "tokens", circuits / "tokens")
    (circuits / "unfinished").mkdir()
    (circuits / "file").write_text("")
    assert Workspace(work).circuits() == [circuits / "again", circuits / TASK]
    assert Workspace(work).verdicts() == [work / "verdicts" / TASK]
    assert Workspace(circuits / "file").circuits() == []


def test_circuits_of_a_task_have_verdicts_and_titles_of_their_own(
    work: Path, thinwire: Thinwire, few_pairs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = shutil.copytree(work / "circuits" / TASK, work / "tight" / TASK)
    content = json.loads((other / "circuit.json").read_text())
    content["calibration"]["shift"] += 1.0
    (other / "circuit.json").write_text(json.dumps(content))
    sign(other)
    before = stamps(work / "verdicts" / TASK)
    payloads = []
    monkeypatch.setattr("thinwire.stages.view.page.write", lambda payload, out: payloads.append(payload))
    assert thinwire("view", other, work / "circuits" / TASK, "--model", work / "model").code == 0
    assert [task.name for task in payloads[0].tasks] == [f"{TASK} (tight)", f"{TASK} (circuits)"]
    assert stamps(work / "verdicts" / TASK) == before, "the verdict on the workspace's circuit stays"
    assert len(list((work / "verdicts").iterdir())) == 2


def test_the_verdict_of_another_circuit_stays(work: Path, thinwire: Thinwire, few_pairs: None) -> None:
    """A second circuit of a task has a verdict of its own: `view` and `verify` do not replace that of the first."""
    other = work / "circuits" / "other"
    shutil.copytree(work / "circuits" / TASK, other)
    thinwire("verify", work / "circuits" / TASK, "--pairs", "9")
    before = stamps(work / "verdicts" / TASK)
    shutil.copytree(with_nodes(work), work / "circuits" / "second")
    shutil.rmtree(work / "circuits" / TASK)
    shutil.copytree(other, work / "circuits" / TASK)
    second = work / "circuits" / "second"
    own = work / "verdicts" / f"{TASK}-{artifact.open_artifact(second, 'circuit').id[:8]}"
    assert thinwire("verify", second, "--pairs", "9", "--json").json["out"] == str(own)
    assert thinwire("view", second, "--json").code == 0
    assert stamps(work / "verdicts" / TASK) == before

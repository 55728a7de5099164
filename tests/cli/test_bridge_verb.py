"""thinwire bridge and info on bridges, and the example of docs/bridges.md, on tiny models."""

import json
import re
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cases import case
from cli_workspace import BRIDGE, DATA, SHAPE, TASK, Thinwire

from thinwire import artifact
from thinwire.bridge.config import BridgeConfig
from thinwire.bridge.profile import measure_profile
from thinwire.cli.bridge import Args, chosen_tasks
from thinwire.cli.details import DETAILS
from thinwire.cli.main import run
from thinwire.errors import UserError
from thinwire.stages.bridge_folders import put_in_place

ROOT = Path(__file__).parents[2]
SPARSE, TOKENS, DENSE, OUT = "runs/quickstart/model", "runs/quickstart/tokens", "runs/dense", "runs/bridge"
FEW = ["--tokens", TOKENS, *BRIDGE]
QUICK = ["--steps", "2", "--batch-size", "2", "--density", "1", "--floor", "0", "--validation-tokens", "256"]
Stamps = dict[str, int]


@pytest.fixture(scope="module")
def made(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs`: a workspace, a dense model of the same tokens, and a bridge; not to be written in."""
    home = tmp_path_factory.mktemp("bridge")
    shutil.copytree(finished, home / "runs" / "quickstart")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert run(["train", TOKENS, "--out", DENSE, *SHAPE, "--model.vocab-size", "600", *QUICK]) == 0
        assert run(["bridge", DENSE, SPARSE, "--out", OUT, *FEW]) == 0
    return home


def stamps() -> Stamps:
    """When every file of the bridge's workspace was written."""
    return {str(path): path.stat().st_mtime_ns for path in sorted(Path(OUT).rglob("*")) if path.is_file()}


def test_finished_stages_are_reused(home: Path, thinwire: Thinwire) -> None:
    before = stamps()
    ran = thinwire("bridge", DENSE, SPARSE, "--out", OUT, *FEW, "--sae", "sae", "--json")
    assert sorted(path.name for path in Path(ran.json["sae"]).iterdir()) == ["h_0", "h_1", "h_2"]
    assert thinwire("bridge", DENSE, SPARSE, "--out", OUT, *FEW, "--sae", "sae").code == 0
    for place, said in ((f"{OUT}/maps/sae", "lies in the artefact"), (f"{OUT}/again/sae", "lies where --force makes")):
        thinwire("bridge", DENSE, SPARSE, "--out", OUT, *FEW, "--sae", place).refused(said)
    assert [line.split()[0] for line in ran.err.splitlines() if "reused" in line] == [
        f"{OUT}/{stage}" for stage in ("ridge", "maps", "joint")
    ]
    assert (list(ran.json["stages"]), ran.json["reused"]) == (["ridge", "maps", "joint"], True)
    assert ran.json["seconds"] > 0
    assert ran.json["stages"]["joint"]["seconds"] > 0
    assert stamps() == before
    out = thinwire("bridge", DENSE, SPARSE, "--out", OUT, *FEW).out
    assert f"Next:\n  thinwire info {OUT}\n  thinwire prune {OUT}/runs/joint --tokens" in out


def test_info_says_which_stages_are_of_another_fit(
    home: Path, thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where --force is killed between two of the moves by which all stages change together."""
    left, put = 0, artifact.put_in_place

    def killed(made: Path, place: Path) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        put(made, place)

    monkeypatch.setattr(artifact, "put_in_place", killed)
    assert thinwire("bridge", DENSE, SPARSE, "--out", "second", *FEW, "--ridge", "0.1").code == 0
    for moves, foreign in enumerate([[], ["maps"], ["maps", "joint"], ["joint"], ["joint"]]):
        out, left = Path(f"moved/{moves}"), moves
        shutil.copytree(OUT, out)
        shutil.copytree("second", out / "again")
        with case(moves):
            with pytest.raises(KeyboardInterrupt):
                put_in_place(out / "again", out)
            rows = thinwire("info", out, "--json").json["artifacts"]
            assert [row["place"] for row in rows if "foreign" in row] == foreign
            assert thinwire("info", out).out.count("another fit") == len(foreign)


def test_another_choice_is_refused_before_anything_changes(home: Path, thinwire: Thinwire) -> None:
    before = stamps()
    cases = {
        "its seed": ["--seed", "1"],
        "its ridge": ["--ridge", "0.1"],
        "its batch_size": ["--batch-size", "2"],
        "maps is finished and differs in its bridge_steps": ["--bridge-steps", "4"],
        "joint is finished and differs in its model_rate": ["--model-rate", "0.5"],
    }
    for said, words in cases.items():
        with case(words):
            thinwire("bridge", DENSE, SPARSE, "--out", OUT, *FEW, *words).refused(said, "--force")
            assert stamps() == before
    thinwire("bridge", SPARSE, SPARSE, "--out", OUT, *FEW).refused("ridge is finished and differs in its dense model;")
    assert stamps() == before
    changed = [*FEW, "--seed", "1", "--joint-steps", "0"]
    ran = thinwire("bridge", DENSE, SPARSE, "--out", OUT, *changed, "--force", "--json")
    assert (list(ran.json["stages"]), ran.json["reused"]) == (["ridge", "maps"], False)
    assert not Path(OUT, "joint").exists(), "a stage of the earlier models would be out of date"
    assert thinwire("bridge", DENSE, SPARSE, "--out", OUT, *changed, "--json").json["reused"]


def test_tasks_are_those_that_are_named(tmp_path: Path) -> None:
    file = tmp_path / "closing.jsonl"
    file.write_text("\n".join(json.dumps({"prompts": [f"({n}", f"[{n}"], "answers": [")", "]"]}) for n in range(90)))

    def names(*tasks: str, file: Path | None = None) -> list[str]:
        given = Path("x")
        return [task.name for task in chosen_tasks(Args(given, given, given, given, BridgeConfig(tasks=tasks), file))]

    assert names() == []
    assert names(TASK) == [TASK]
    assert names(TASK, file=file) == [TASK, "closing"]
    with pytest.raises(
        UserError, match=r"The config was written for closing:123 and --task-file has closing:\w+; give"
    ):
        names("closing:123", file=file)


def test_force_keeps_the_earlier_stages_until_all_are_made_again(home: Path, thinwire: Thinwire) -> None:
    words = ["bridge", DENSE, SPARSE, "--out", OUT, *FEW, "--seed", "1", "--force"]

    def at_the_joint_stage(*args: object) -> None:
        raise KeyboardInterrupt

    Path(OUT, "again").symlink_to(DENSE)
    thinwire(*words).refused("again is a link, and --force makes the stages again there; move it.")
    Path(OUT, "again").unlink()
    Path(OUT, "again").mkdir()
    Path(OUT, "again/notes.txt").write_text("mine")
    thinwire(*words).refused("again/notes.txt is no stage of a bridge, and --force would delete it; move it.")
    Path(OUT, "again/notes.txt").unlink()
    before = {path: stamp for path, stamp in stamps().items() if "/again/" not in path}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thinwire.stages.bridge.measure_profile", interrupted_at(2, at_the_joint_stage))
        assert thinwire(*words).code == 1
    assert {path: stamp for path, stamp in stamps().items() if "/again/" not in path} == before
    ran = thinwire(*words, "--json")
    assert ran.json["reused_folders"] == [f"{OUT}/again/ridge"], "the same command continues"
    assert not Path(OUT, "again").exists()
    assert artifact.open_artifact(Path(OUT, "joint"), "bridge").config(BridgeConfig).seed == 1
    assert not before.items() & stamps().items()


def interrupted_at(call: int, interrupt: Callable[..., None]) -> Callable[..., object]:
    """`measure_profile` until it is called so often."""
    calls = iter(range(1, 10))
    return lambda *args: (interrupt if next(calls) == call else measure_profile)(*args)


def test_what_does_not_fit_is_refused_before_any_work(home: Path, thinwire: Thinwire) -> None:
    Path("file").write_text("mine")
    Path("own/joint").mkdir(parents=True)
    Path("own/joint/notes.txt").write_text("mine")
    shape = [*SHAPE, "--model.vocab-size", "600", *QUICK]
    assert thinwire("train", TOKENS, "--out", "runs/short", *shape, "--model.context", "16").code == 0
    assert thinwire("train", TOKENS, "--out", "runs/deep", *shape, "--model.n-layers", "2").code == 0
    assert thinwire("data", "--out", "runs/other", *DATA, "--seed", "1", "--vocab-size", "500").code == 0
    cases = [
        ([DENSE, SPARSE, "--out", "file"], "file"),
        ([DENSE, SPARSE, "--out", "file/inside"], "file"),
        ([DENSE, SPARSE, "--out", "own"], "own/joint holds files that are not a thinwire artefact"),
        ([DENSE, SPARSE, "--out", "runs/dense/bridge"], "lies in the artefact"),
        (["runs/short", SPARSE, "--out", "new"], "at most and the sparse one 128; give a dense model"),
        (["runs/deep", SPARSE, "--out", "new"], "give two models of the same depth."),
        (["python-2x256-dense", SPARSE, "--out", "new"], "different tokenizers"),
        ([DENSE, SPARSE, "--out", "new", "--tokens", "runs/other"], "different tokenizers"),
        ([OUT, SPARSE, "--out", "new"], OUT),
        ([f"{OUT}/ridge", SPARSE, "--out", "new"], "is a bridge artefact where a model artefact is needed"),
        ([DENSE, SPARSE, "--out", "new", "--n-active", "33"], "n_active is 33"),
    ]
    for words, said in cases:
        with case(words):
            thinwire("bridge", *words[:2], *FEW, *words[2:]).refused(said)
            assert not Path("new/ridge").exists()
            assert not Path("own/ridge").exists()


def test_a_damaged_bridge_is_made_again(home: Path, thinwire: Thinwire) -> None:
    before = artifact.open_artifact(Path(OUT, "maps"), "bridge").id
    weights = Path(OUT, "maps", "bridge.safetensors")
    weights.write_bytes(weights.read_bytes()[:-9])
    thinwire("info", f"{OUT}/maps").refused("truncated or altered")
    ran = thinwire("bridge", DENSE, SPARSE, "--out", OUT, *FEW, "--json")
    assert [Path(folder).name for folder in ran.json["reused_folders"]] == ["ridge", "joint"]
    assert artifact.open_artifact(Path(OUT, "maps"), "bridge").id == before


def test_info_of_bridges(home: Path, thinwire: Thinwire) -> None:
    for stage in ("ridge", "maps", "joint"):
        found = thinwire("info", f"{OUT}/{stage}", "--json").json
        assert (found["kind"], found["stage"]) == ("bridge", stage)
        assert {"dense_loss", "gap_dense_to_sparse", "to_dense h_2", "parent dense", "seconds"} <= set(found)
    assert re.search(r"^gap_sparse_to_dense +[\d.]+ nats$", thinwire("info", f"{OUT}/ridge").out, re.MULTILINE)
    rows = thinwire("info", OUT, "--json").json["artifacts"]
    places = {"ridge": "bridge", "maps": "bridge", "joint": "bridge", "runs/joint": "model", "runs/maps": "model"}
    assert {row["place"]: row["kind"] for row in rows} == places


def test_the_report_is_written_with_the_stages(home: Path, thinwire: Thinwire) -> None:
    page = Path(OUT, "report.html")
    text = page.read_text("utf-8")
    page.unlink()
    found = thinwire("bridge", DENSE, SPARSE, "--out", OUT, *FEW, "--json").json
    assert (found["page"], page.read_text("utf-8")) == (str(page), text)
    agreement = thinwire("info", f"{OUT}/maps", "--json").json
    assert {"correlation sparse", "correlation to_dense h_1", "explained_encode h_2"} <= set(agreement)
    assert agreement["agreement_tokens"] > 0


def test_every_format_of_the_package_has_an_info() -> None:
    sources = [path.read_text("utf-8") for path in (ROOT / "thinwire").rglob("*.py")]
    assert {name for text in sources for name in re.findall(r'FORMATS\.register\("(\w+)"\)', text)} == set(DETAILS)


def test_the_example_of_the_docs_runs(home: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/bridges.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 1
    Path("block.py").write_text(blocks[0].replace("python-2x256-dense", DENSE), "utf-8")
    names = runpy.run_path("block.py")
    assert names["h"].shape[-1] == 32
    assert names["found"].task == TASK
    assert names["found"].over_random > 0
    assert len(repr(names["steering"])) <= 300

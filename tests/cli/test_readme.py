"""README.md as a user reads it: its Python runs, its commands exist, its table names real artefacts."""

import re
import runpy
from pathlib import Path

import pytest
from cli_workspace import BRIDGE, DATA, PRUNE, TASK, TRAIN, VERIFY, Thinwire

from thinwire.cli.main import VERBS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def test_python_block_runs(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    assert finished.parts[-2:] == ("runs", "quickstart")
    (tmp_path / "block.py").write_text(blocks[0], "utf-8")
    monkeypatch.chdir(finished.parents[1])
    names = runpy.run_path(str(tmp_path / "block.py"))
    assert capsys.readouterr().out.startswith(f"{len(names['circuit'].nodes)} nodes, ")
    assert names["activations"].values


def commands() -> list[str]:
    """What README says to type after `thinwire`, and what its make targets are."""
    return re.findall(r"`thinwire ([^`]+)`", README)


def test_commands_name_verbs() -> None:
    verbs = {command.split()[0] for command in commands()}
    assert verbs <= set(VERBS)
    assert {"data", "train", "tasks", "prune", "verify", "view", "quickstart", "info", "doctor"} <= verbs
    targets = set(re.findall(r"^make (\w+)", README, re.MULTILINE)) | set(re.findall(r"`make (\w+)`", README))
    made = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets
    assert targets <= made


def test_table_of_stages(tmp_path: Path, thinwire: Thinwire) -> None:
    """Every command of the table, in order, with tiny sizes, writes the artefact beside it."""
    sizes = {"data": DATA, "plan": [], "train": TRAIN, "generate": ["--tokens", "4"], "tasks": ["--pairs", "4"]}
    sizes |= {"prune": PRUNE, "verify": VERIFY, "bridge": BRIDGE, "view": []}
    rows = re.findall(r"^\| [^|]+ \| `thinwire ([^`]+)` \| (?:`([^`]+)`|[^|]*) \|$", README, re.MULTILINE)
    order = [*sizes, "quickstart"]
    order.insert(order.index("view"), "verify")  # once more, through the bridge
    assert [command.split()[0] for command, _ in rows] == order
    for command, artefact in rows[:-1]:
        if command.startswith("bridge"):
            dense = [*TRAIN, "--density", "1", "--floor", "0"]
            assert thinwire("train", tmp_path / "W/tokens", "--out", tmp_path / "W/dense", *dense).code == 0
        words = [str(tmp_path / word) if word.startswith("W/") else word for word in command.split()]
        assert thinwire(*words, *sizes[words[0]]).code == 0
        assert not artefact or (tmp_path / artefact).exists()
    assert (tmp_path / "W/circuits" / TASK).is_dir()


def test_links_lead_somewhere() -> None:
    paths = re.findall(r"\]\(([\w./-]+)\)", README)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []

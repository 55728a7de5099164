"""Paths on the command line: `~` in every option, and places where no file belongs."""

import json
import os
from pathlib import Path

import pytest
from cases import case
from cli_workspace import TASK, Thinwire

from thinwire.cli.common import at_home
from thinwire.data.config import DataConfig


def test_home_is_expanded_in_every_option(
    work: Path, tmp_path: Path, thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch, few_pairs: None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "verify.json").write_text('{"pairs": 8, "random_circuits": 1}')
    (tmp_path / "prompt").write_text("if ")
    home = f"~/{work.name}"
    circuit, model = f"{home}/circuits/{TASK}", f"{home}/model"
    for words in (
        ["info", model],
        ["view", circuit, f"--out={home}/page.html"],
        ["verify", circuit, "--config", "~/verify.json", "-o", "~/verdict", "--model", model],
        ["generate", model, "--prompt-file", "~/prompt", "--tokens", "1", "--circuit", circuit],
    ):
        with case(words):
            assert thinwire(*words).code == 0
    assert (work / "page.html").is_file()
    assert (tmp_path / "verdict/meta.json").is_file()
    config = DataConfig(folders=(Path("~/a"), Path("b")), tokenizer=Path("~"))
    assert at_home(config) == DataConfig(folders=(tmp_path / "a", Path("b")), tokenizer=tmp_path)
    assert at_home((Path("-"), "~", Path("~nobody-of-this-name/x"))) == (Path("-"), "~", Path("~nobody-of-this-name/x"))


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices of POSIX systems")
def test_pages_replace_no_device(work: Path, tmp_path: Path, thinwire: Thinwire, few_pairs: None) -> None:
    os.mkfifo(tmp_path / "fifo.html")
    (tmp_path / "null.html").symlink_to("/dev/null")
    (tmp_path / "folder.html").mkdir()
    for source in (work / "circuits" / TASK, work / "model"):
        thinwire("view", source, "--out", tmp_path / "fifo.html").refused("is a pipe; give the name of")
        thinwire("view", source, "--out", tmp_path / "null.html").refused("is a device; give the name of")
        thinwire("view", source, "--out", tmp_path / "folder.html").refused("is a folder; give the name of")
    assert (tmp_path / "fifo.html").is_fifo()
    assert (tmp_path / "null.html").is_symlink()


def test_a_newer_artefact_is_called_so(work: Path, thinwire: Thinwire) -> None:
    for place in ("tokens", "model", f"circuits/{TASK}", f"verdicts/{TASK}"):
        meta = work / place / "meta.json"
        stored = json.loads(meta.read_text())
        meta.write_text(json.dumps(stored | {"version": stored["version"] + 1, "licence": "free"}))
        with case(place):
            thinwire("info", work / place).refused("update thinwire, or make it again")

"""Tokens are reused by the content of their sources: where these are does not matter, what they hold does."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cases import case

from thinwire.artifact import Occupied
from thinwire.data import DataConfig, Tokenizer, Tokens, build
from thinwire.errors import UserError
from thinwire.progress import Note, Reused


def config_of(*folders: Path | str, **changes: object) -> DataConfig:
    return DataConfig.model_validate({"idioms": 0, "stdlib": False, "folders": folders, "vocab_size": 300, **changes})


def notes_of(config: DataConfig, out: Path) -> list[Note]:
    """What a build notes."""
    notes: list[Note] = []

    def report(done: int, total: int, status: str) -> None:
        if isinstance(status, Note):
            notes.append(status)

    build(config, out, report)
    return notes


def texts(tokens: Tokens) -> set[str]:
    """All documents of the folders."""
    found = [tokens.documents("folders", split, 1000, 0) for split in ("train", "validation")]
    return {tokens.tokenizer.decode(ids[1:].tolist()) for some in found for ids in some}


def test_the_same_words_in_another_folder_ask_for_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "tokens"
    for project in ("one", "two"):
        (tmp_path / project / "src").mkdir(parents=True)
        for i in range(5):
            (tmp_path / project / "src" / f"f{i}.py").write_text(f"{project}{i} = {i}\n")
        monkeypatch.chdir(tmp_path / project)
        assert texts(build(config_of("src"), out)) == {f"{project}{i} = {i}\n" for i in range(5)}


def test_a_copy_of_the_sources_is_the_same_request(sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    (sources / "flat/copy.py").write_bytes((sources / "flat/module_00.py").read_bytes())
    build(config_of(sources, idioms=50), out)
    copied = shutil.copytree(sources, tmp_path / "elsewhere" / "sources")
    for place in (sources, copied, os.path.relpath(copied)):
        with case(place):
            assert notes_of(config_of(place, idioms=50), out) == [Reused(out)]
    shutil.rmtree(sources)
    with pytest.raises(UserError, match="sources is not a folder"):
        build(config_of(sources, idioms=50), out)


def test_every_change_of_the_sources_is_noticed_and_said(sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    changes: dict[str, Callable[[Path], object]] = {
        "flat/new.py": lambda path: path.write_text("new = 1\n"),
        "flat/module_00.py": lambda path: path.write_text("edited = 1\n"),
        "deep/er/module_01.py": Path.unlink,
        "flat/module_02.py": lambda path: path.rename(path.with_name("renamed.py")),
        "flat/large.py": lambda path: path.write_text("x = 1\n" * 200_000),
        "flat/latin.py": lambda path: path.write_bytes(b"x = '\xe9'\n"),
        "flat/copy.py": lambda path: path.write_bytes((sources / "flat/module_04.py").read_bytes()),
    }
    build(config_of(sources), out)
    for name, change in changes.items():
        with case(name):
            change(sources / name)
            (note,) = notes_of(config_of(sources), out)
            assert note.startswith(f"{out} is built again: sources/flat/" if "02" in name else f"{out} is built again")
            assert name.removesuffix("module_02.py") in note
            assert notes_of(config_of(sources), out) == [Reused(out)]
    (sources / ".hidden").mkdir()
    assert notes_of(config_of(sources), out) == [Reused(out)], "it is not entered, so nothing has changed"


def test_a_tokenizer_is_known_by_its_content(sources: Path, tmp_path: Path) -> None:
    given, out = tmp_path / "tokenizer.json", tmp_path / "tokens"
    Tokenizer.train(["x = 1\n" * 5], 260).save(given)
    build(config_of(sources, tokenizer=given), out)
    elsewhere = Path(shutil.copy(given, tmp_path / "copy.json"))
    for same in (config_of(sources, tokenizer=elsewhere), config_of(sources, tokenizer=out, vocab_size=290)):
        with case(same.tokenizer):
            assert notes_of(same, out) == [Reused(out)]
    with pytest.raises(Occupied, match="is finished and differs in its tokenizer;"):
        notes_of(config_of(sources), out)  # without a tokenizer one is trained


def test_older_manifests_are_read_and_damaged_ones_lead_to_a_new_build(sources: Path, tmp_path: Path) -> None:
    """A manifest of an earlier version names neither folders that were not entered nor the texts of duplicates."""
    from thinwire.data import sources as rule

    (sources / "flat/copy.py").write_bytes((sources / "flat/module_00.py").read_bytes())
    (sources / ".git").mkdir()
    build(config_of(sources), tmp_path / "tokens")
    manifest = tmp_path / "tokens/manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for line in lines:
        if line.get("skipped"):
            line.pop("sha256", None)
    older = [line for line in lines if line.get("skipped") != "hidden folder"]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in older))
    assert rule.difference(config_of(sources), manifest) is None
    for content in (b"{", b"[]\n", b'{"part": 3}\n', b'{"part": "folders", "name": [1], "sha256": {}}\n', b"\xff\n"):
        manifest.write_bytes(content)
        with case(content), pytest.raises(UserError, match="build the tokens again"):
            rule.difference(config_of(sources), manifest)


def test_names_that_no_config_can_hold_are_refused_before_any_work(sources: Path, tmp_path: Path) -> None:
    named = sources.rename(tmp_path / os.fsdecode(b"caf\xe9"))

    def report(done: int, total: int, status: str) -> None:
        raise AssertionError("work has begun")

    with pytest.raises(UserError, match=r"is not UTF-8, which an artefact cannot record; rename it"):
        build(config_of(named), tmp_path / "tokens", report)
    (named / os.fsdecode(b"\xe9.py")).write_text("inside = 1\n")
    other = named.rename(tmp_path / "cafe")
    build(config_of(other), tmp_path / "tokens")
    assert notes_of(config_of(other), tmp_path / "tokens") == [Reused(tmp_path / "tokens")]

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cases import case
from pydantic import ValidationError

from thinwire import artifact
from thinwire.artifact import Occupied
from thinwire.data import DataConfig, Tokens, build
from thinwire.errors import UserError


def config_of(*folders: Path, **changes: object) -> DataConfig:
    return DataConfig.model_validate({"idioms": 0, "stdlib": False, "folders": folders, "vocab_size": 300, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_config_builds_the_same_files(sources: Path, tmp_path: Path) -> None:
    config = config_of(sources, idioms=50)
    one, two = build(config, tmp_path / "one"), build(config, tmp_path / "two")
    assert contents(one.artifact.path) == contents(two.artifact.path)
    assert one.artifact.id == two.artifact.id
    assert {"config.json", "meta.json", "manifest.jsonl", "stats.json", "tokenizer.json"} <= set(
        contents(tmp_path / "one")
    )
    assert set(contents(tmp_path / "one")) == {*one.artifact.meta.files, "meta.json"}
    assert build(config.replace(seed=1), tmp_path / "three").artifact.id != one.artifact.id


def test_documents_decode_to_the_files(sources: Path, tmp_path: Path) -> None:
    tokens = build(config_of(sources), tmp_path / "tokens")
    found = {
        tokens.tokenizer.decode(document[1:].tolist())
        for split in ("train", "validation")
        for document in tokens.documents("folders", split, 100, 0)
    }
    assert found == {path.read_text(encoding="utf-8") for path in sources.rglob("*.py")}


def test_the_manifest_names_every_file_and_the_idioms_once(sources: Path, tmp_path: Path) -> None:
    (sources / "flat" / "zz_copy.py").write_bytes((sources / "flat" / "module_00.py").read_bytes())
    (sources / "flat" / "zz_latin.py").write_bytes(b"x = '\xe9'\n")
    tokens = build(config_of(sources, idioms=50), tmp_path / "tokens")
    lines = [json.loads(line) for line in (tmp_path / "tokens/manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    idioms = [line for line in lines if line["part"] == "idioms"]
    assert [(line["count"] + line["duplicates"], line["seed"]) for line in idioms] == [(50, 0)]
    files = {line["name"]: line for line in lines if line["part"] == "folders"}
    assert len(files) == len(lines) - 1 == 42
    assert files["sources/flat/zz_copy.py"]["skipped"] == "duplicate"
    assert files["sources/flat/zz_latin.py"]["skipped"] == "undecodable"
    assert tokens.stats.skipped == {"duplicate": 1 + idioms[0]["duplicates"], "undecodable": 1}
    for row in tokens.stats.parts:
        if row.part == "folders":
            of_split = [line for line in files.values() if line.get("split") == row.split]
            assert (len(of_split), sum(line["bytes"] for line in of_split)) == (row.documents, row.bytes)
        else:
            held_out = idioms[0]["validation"]
            assert row.documents == (held_out if row.split == "validation" else idioms[0]["count"] - held_out)


def test_finished_tokens_are_reused_unless_forced_changed_or_damaged(sources: Path, tmp_path: Path) -> None:
    config, out = config_of(sources), tmp_path / "tokens"
    first = build(config, out)
    stamp = (out / "meta.json").stat().st_mtime_ns
    assert build(config, out).artifact == first.artifact
    assert (out / "meta.json").stat().st_mtime_ns == stamp
    assert build(config, out, force=True).artifact.id == first.artifact.id
    assert (out / "meta.json").stat().st_mtime_ns != stamp
    other = config.replace(vocab_size=280)
    with pytest.raises(
        Occupied, match=f"^{re.escape(str(out))} is finished and differs in its vocab_size; choose another"
    ):
        build(other, out)
    assert build(other, out, force=True).tokenizer.vocab_size == 280
    (out / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="missing, truncated or altered"):
        Tokens.open(out)
    assert build(config.replace(vocab_size=270), out).tokenizer.vocab_size == 270, "nothing of worth is lost"


def test_a_given_tokenizer_is_used_as_it_is(sources: Path, tmp_path: Path) -> None:
    """Another corpus under the first one's tokenizer, wherever that comes from; the size to train has no say."""
    first = build(config_of(sources, vocab_size=290), tmp_path / "first")
    elsewhere = [first.artifact.path, first.artifact.path / "tokenizer.json"]
    for number, place in enumerate(elsewhere):
        tokens = build(config_of(idioms=60, vocab_size=400, tokenizer=place), tmp_path / f"{number}")
        assert tokens.tokenizer.id == tokens.stats.tokenizer == first.tokenizer.id
        assert tokens.stats.vocab_size == first.tokenizer.vocab_size < 400
    own = build(config_of(idioms=60, vocab_size=400), tmp_path / "own")
    assert own.tokenizer.id != first.tokenizer.id
    assert [text(tokens) for tokens in (tokens, own)] == [text(own)] * 2
    stamp = (tmp_path / "0/meta.json").stat().st_mtime_ns
    config = Tokens.open(tmp_path / "0").config
    build(config, tmp_path / "0")
    assert (tmp_path / "0/meta.json").stat().st_mtime_ns == stamp
    build(config_of(sources, vocab_size=280), first.artifact.path, force=True)
    with pytest.raises(Occupied, match="is finished and differs in its tokenizer;"):
        build(config, tmp_path / "0")  # the place holds another tokenizer now
    assert build(config, tmp_path / "0", force=True).tokenizer.vocab_size == 280
    with pytest.raises(UserError, match=r"nowhere cannot be read .*; give a tokenizer.json"):
        build(config.replace(tokenizer=tmp_path / "nowhere"), tmp_path / "0")


def text(tokens: Tokens) -> set[str]:
    """All training documents of the idioms."""
    return {tokens.tokenizer.decode(ids[1:].tolist()) for ids in tokens.documents("idioms", "train", 1000, 0)}


@pytest.mark.parametrize("status", ["reading", "training the tokenizer", "encoding"])
def test_an_interrupted_build_leaves_what_was_finished(sources: Path, tmp_path: Path, status: str) -> None:
    out = tmp_path / "tokens"
    build(config_of(sources), out)
    before = contents(out)

    def interrupt(done: int, total: int, said: str) -> None:
        if said.startswith(status):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(config_of(sources, vocab_size=280), out, interrupt, force=True)
    assert contents(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sources", "tokens"]


def test_progress_counts_up_to_its_total(sources: Path, tmp_path: Path) -> None:
    said: list[tuple[int, int, str]] = []
    build(config_of(sources, idioms=300), tmp_path / "tokens", lambda *report: said.append(report))
    assert said[0] == (0, 1, "listing the sources")
    said = said[1:]
    assert {total for _, total, _ in said} == {2 * 340}
    assert any(status.startswith("training the tokenizer on 0.") for _, _, status in said)
    assert [done for done, _, _ in said] == sorted(done for done, _, _ in said)
    assert said[-1][0] == said[-1][1]
    assert said[-1][2].endswith(" tokens")


def test_other_folders_are_left_alone(sources: Path, tmp_path: Path) -> None:
    for name, content in (("config.json", '{"n_layers": 2}'), ("notes.txt", "mine")):
        out = tmp_path / name.partition(".")[0]
        out.mkdir()
        (out / name).write_text(content, encoding="utf-8")
        for force in (False, True):
            with pytest.raises(UserError, match="choose another --out"):
                build(config_of(sources), out, force=force)
        assert contents(out) == {name: content.encode()}


def test_a_part_without_a_usable_document_is_refused(sources: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    twin.mkdir()
    (twin / "latin.py").write_bytes(b"x = '\xe9'\n")
    (twin / "blank.py").write_bytes(b"\n")
    with pytest.raises(UserError, match=r"No document of the folders could be used \(1 empty, 1 undecodable\)"):
        build(config_of(twin), tmp_path / "tokens")
    with pytest.raises(UserError, match="missing is not a folder"):
        build(config_of(tmp_path / "missing"), tmp_path / "tokens")
    with pytest.raises(UserError, match="The corpus is empty"):
        build(config_of(), tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


def test_one_document_trains_and_holds_nothing_out(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/a.py").write_text("x = 1\n" * 50, encoding="utf-8")
    tokens = build(config_of(tmp_path / "one"), tmp_path / "tokens")
    assert tokens.n_tokens("folders", "validation") == 0
    assert tokens.batch(0, 0, 4, 16).shape == (4, 17)
    with pytest.raises(UserError, match="The validation split of folders has 0 tokens where 65 are needed"):
        tokens.validation("folders", 64, 64)


def test_damaged_tokens_are_refused(sources: Path, tmp_path: Path) -> None:
    whole = build(config_of(sources), tmp_path / "tokens")
    damaged = tmp_path / "damaged"
    for name in ("stats.json", "tokenizer.json", "folders.train.00000.bin", "meta.json", "config.json"):
        for content in (None, b"", b"{}"):
            with case(name, content):
                shutil.copytree(whole.artifact.path, damaged)
                if content is None:
                    (damaged / name).unlink()
                else:
                    (damaged / name).write_bytes(content)
                with pytest.raises(UserError, match=r"again|damaged|unfinished"):
                    Tokens.open(damaged)
                shutil.rmtree(damaged)


def test_values_out_of_range_are_refused() -> None:
    for bad in [
        {"vocab_size": 65_536},
        {"vocab_size": 256},
        {"idioms": -1},
        {"stdlib_weight": -0.1},
        {"validation_fraction": 1},
    ]:
        with case(bad):
            with pytest.raises(ValidationError):
                DataConfig.model_validate(bad)
            with pytest.raises(UserError):
                DataConfig().replace(**bad)


def refinish(folder: Path, leave_out: str = "") -> None:
    """Write a meta.json that fits the files of a tokens folder as they are now, without one of them."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in ("config.json", "meta.json", leave_out))
    artifact.finish(folder, "tokens", DataConfig.load(folder / "config.json"), {}, names)


def test_tokens_that_contradict_themselves_are_refused(sources: Path, tmp_path: Path) -> None:
    """Whole files with fitting hashes, as somebody could make them."""
    made = build(config_of(sources), tmp_path / "tokens")
    folder = tmp_path / "forged"

    def stats(change: Callable[[dict], object]) -> Callable[[], object]:
        def write() -> None:
            found = json.loads((folder / "stats.json").read_text())
            change(found)
            (folder / "stats.json").write_text(json.dumps(found))

        return write

    shard = "folders.train.00000.bin"
    offsets = "folders.train.offsets.npy"
    forged: dict[str, Callable[[], object]] = {
        "documents": stats(lambda found: found["parts"][0].update(documents=3)),
        "tokens": stats(lambda found: found["parts"][0].update(tokens=10**30)),
        "no split": stats(lambda found: found["parts"].pop()),
        "a split twice": stats(lambda found: found["parts"].append(found["parts"][0])),
        "another vocabulary": stats(lambda found: found.update(vocab_size=280)),
        "a token beyond the vocabulary": lambda: np.full(made.n_tokens("folders", "train"), 300, "<u2").tofile(
            folder / shard
        ),
        "half a token": lambda: (folder / shard).write_bytes((folder / shard).read_bytes()[:-1]),
        "falling offsets": lambda: np.save(folder / offsets, np.load(folder / offsets)[[0, *range(36, 0, -1), 37, 38]]),
    }
    for name, forge in forged.items():
        with case(name):
            shutil.copytree(made.artifact.path, folder)
            forge()
            refinish(folder)
            with pytest.raises(UserError, match="build the tokens again"):
                Tokens.open(folder)
            shutil.rmtree(folder)
    for name in ("stats.json", "tokenizer.json", shard, offsets):
        with case(name):
            shutil.copytree(made.artifact.path, folder)
            refinish(folder, leave_out=name)
            with pytest.raises(
                UserError, match=rf"does not list {name},|{name} is missing or not listed|do(es)? not fit"
            ):
                Tokens.open(folder)
            shutil.rmtree(folder)

"""thinwire data and info on sources that are left out in part or have changed, and circuits of other tokens."""

from pathlib import Path

from cli_workspace import PRUNE, TASK, Thinwire

OPTIONS = ("--idioms", "0", "--no-stdlib", "--vocab-size", "300")


def test_what_is_left_out_is_said_wherever_the_user_looks(tmp_path: Path, thinwire: Thinwire) -> None:
    source, out = tmp_path / "source", tmp_path / "tokens"
    (source / ".venv").mkdir(parents=True)
    for i in range(3):
        (source / f"new{i}.py").write_text(f"value{i} = {i}\n")
    (source / "old.py").write_bytes(b"# -*- coding: latin-1 -*-\nname = 'Andr\xe9'\n")
    (source / "older.py").write_bytes(b"name = 'Andr\xe9'\n")
    (source / "copy.py").write_bytes(b"value0 = 0\n")
    (source / "table.py").write_text("x = 1\n" * 2000)
    words = ("data", "--out", out, "--folders", source, *OPTIONS, "--max-file-bytes", "10000")
    made = thinwire(*words)
    assert f"1 duplicate, 1 hidden folder, 1 too large, 1 undecodable (named in {out}/manifest.jsonl)" in made.out
    counts = {"duplicate": 1, "hidden folder": 1, "too large": 1, "undecodable": 1}
    again = thinwire(*words, "--json")
    assert again.err == f"{out} is finished already; reused. --force makes it again.\n"
    assert (again.json["left_out"], again.json["reused"]) == (counts, True)
    assert again.json["folders_train_documents"] + again.json["folders_validation_documents"] == 4
    described = thinwire("info", out)
    for reason in counts:
        assert f"left out: {reason} " in described.out
    assert {name: thinwire("info", out, "--json").json[f"left out: {name}"] for name in counts} == counts


def test_tokens_that_are_built_again_are_said_to_be(tmp_path: Path, thinwire: Thinwire) -> None:
    source, out = tmp_path / "source", tmp_path / "tokens"
    source.mkdir()
    (source / "a.py").write_text("a = 1\n")
    words = ("data", "--out", out, "--folders", source, *OPTIONS, "--json")
    assert thinwire(*words).json["reused"] is False
    (source / "a.py").write_text("b = 2\n")
    again = thinwire(*words)
    assert f"{out} is built again: source/a.py is not what it was built from.\n" in again.err
    assert again.json["reused"] is False


def test_more_documents_than_can_be_made_are_refused(tmp_path: Path, thinwire: Thinwire) -> None:
    thinwire("data", "--out", tmp_path / "tokens", "--idioms", "1000000000").refused("less than or equal to 10000000")


def test_a_circuit_is_reused_for_the_tokens_that_its_means_are_of(
    work: Path, tmp_path: Path, thinwire: Thinwire
) -> None:
    others = tmp_path / "others"
    words = ("--tokenizer", work / "model", "--idioms", "200", "--no-stdlib", "--seed", "3")
    assert thinwire("data", "--out", others, *words).code == 0
    words = ["prune", work / "model", "-t", TASK, *PRUNE, "--json"]
    thinwire(*words, "--tokens", others).refused("is finished and differs in its tokens;")
    assert thinwire(*words, "--tokens", others, "--force").json["reused"] is False
    assert thinwire(*words, "--tokens", others).json["reused"] is True

"""Every verb on a tiny workspace: what it answers, what it writes, what it reuses."""

import json
import logging
from pathlib import Path

import pytest
from cases import case
from cli_workspace import DATA, PRUNE, TASK, TRAIN, VERIFY, Thinwire, stamps

from thinwire.cli.main import VERBS, main


def test_help_of_every_verb(thinwire: Thinwire) -> None:
    for verb in (*VERBS, "tasks list", "tasks show", "tasks score"):
        ran = thinwire(*verb.split(), "--help")
        assert (ran.code, ran.err) == (0, "")
        assert f"usage: thinwire {verb}" in ran.out


def test_overview(thinwire: Thinwire) -> None:
    for word in ("--help", "-h", "help"):
        ran = thinwire(word)
        assert ran.code == 0
        assert all(f"  {verb} " in ran.out for verb in VERBS)
        assert max(map(len, ran.out.splitlines())) <= 80
    assert thinwire().code == 2
    assert thinwire("--version").out.startswith("thinwire 0")


def test_notes_of_the_library_are_lines_of_stderr(capsys: pytest.CaptureFixture, monkeypatch) -> None:
    library = logging.getLogger("thinwire")
    monkeypatch.setattr(library, "handlers", [])
    monkeypatch.setattr(library, "level", library.level)
    with pytest.raises(SystemExit):
        main(["--version"])
    logging.getLogger("thinwire.engine.jit").info("Compiling kernels.")
    assert capsys.readouterr().err == "Compiling kernels.\n"


def reused(folder: Path, remedy: str = "--force makes it again") -> str:
    """The line on stderr about finished work."""
    return f"{folder} is finished already; reused. {remedy}.\n"


def test_data(finished: Path, thinwire: Thinwire) -> None:
    before = stamps(finished)
    ran = thinwire("data", "--out", finished / "tokens", *DATA, "--json")
    assert ran.err == reused(finished / "tokens")
    found = ran.json
    assert found["reused"] is True
    assert found["out"] == str(finished / "tokens")
    assert found["vocab_size"] == 600
    assert found["idioms_train_tokens"] > 10 * found["idioms_validation_tokens"] > 0
    assert stamps(finished) == before, "finished tokens are reused"


def test_train(finished: Path, thinwire: Thinwire) -> None:
    before = stamps(finished)
    ran = thinwire("train", finished / "tokens", "--out", finished / "model", *TRAIN, "--json")
    assert ran.err == reused(finished / "model", "Another --out makes a new one")
    found = ran.json
    assert found["reused"] is True
    assert found["out"] == str(finished / "model")
    assert 0 < found["val_loss"] < 6.4
    assert found["val_losses"] == {"idioms": pytest.approx(found["val_loss"])}
    assert found["nonzeros"] < 0.26 * found["entries"]
    assert found["tokens"] == 30 * 4 * 128
    assert found["seconds"] > 0
    assert found["tokens_per_second"] > 0
    assert stamps(finished) == before, "a finished model is returned"
    out = thinwire("train", finished / "tokens", "--out", finished / "model", *TRAIN).out
    assert "nats per token" in out
    assert f"thinwire prune {finished / 'model'} --task" in out, "what to run next"
    assert "{" not in out


def test_config_file_and_options_in_that_order(finished: Path, tmp_path: Path, thinwire: Thinwire) -> None:
    made = json.loads((finished / "model/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(made | {"steps": 7}))
    options = ["--config", tmp_path / "config.json", "--seed", "3", "--steps=2"]
    words = ["train", finished / "tokens", "-o", tmp_path / "model", *options]
    thinwire(*words, "--preset", "tiny_dense").refused("Give either --preset or --config, not both")
    assert thinwire(*words).code == 0
    written = json.loads((tmp_path / "model/config.json").read_text())
    assert written == made | {"steps": 2, "seed": 3}


def test_prune(finished: Path, thinwire: Thinwire) -> None:
    before = stamps(finished)
    ran = thinwire("prune", finished / "model", "--task", TASK, *PRUNE, "--json")
    assert ran.err == reused(finished / "circuits" / TASK)
    found = ran.json
    assert found["reused"] is True
    assert Path(found["out"]) == finished / "circuits" / TASK
    assert found["task"] == TASK
    assert found["nodes"] >= 0
    assert found["edges"] >= 0
    assert 0 <= found["accuracy"] <= 1 < 1 + found["loss"]
    assert found["target_loss"] == 5
    assert found["seconds"] > 0
    assert stamps(finished) == before, "a finished circuit is reused"


def test_prune_elsewhere_and_again(work: Path, tmp_path: Path, thinwire: Thinwire) -> None:
    first = stamps(work / "circuits" / TASK)
    options = ["--tokens", work / "tokens", *PRUNE]
    assert thinwire("prune", work / "model", "-t", TASK, *options, "--out", tmp_path / "mine/c").code == 0
    assert thinwire("info", tmp_path / "mine/c").code == 0
    assert stamps(work / "circuits" / TASK) == first
    assert thinwire("prune", work / "model", "-t", TASK, *options, "--force").code == 0
    assert stamps(work / "circuits" / TASK) != first


def test_other_options_never_replace_finished_work(work: Path, thinwire: Thinwire) -> None:
    """Whatever took long is kept until --force is given; so is the table of several tasks."""
    circuit = work / "circuits" / TASK
    prune = ["prune", work / "model", "-t", TASK, *PRUNE]
    before = stamps(work)
    cases = {
        f"{circuit} is finished and differs in its k_coef and seed;": [*prune, "--seed", "1", "--k-coef", "0.5"],
        f"{circuit.absolute()} is finished and differs in its seed;": [
            *prune[:2],
            "--tasks",
            "all",
            *PRUNE,
            "--seed",
            1,
        ],
        f"{work / 'verdicts' / TASK} is finished and differs in its pairs;": [
            "verify",
            circuit,
            *VERIFY,
            "--pairs",
            "17",
        ],
        f"{work / 'tokens'} is finished and differs in its seed;": [
            "data",
            "-o",
            work / "tokens",
            *DATA,
            "--seed",
            "1",
        ],
    }
    for said, words in cases.items():
        with case(said):
            thinwire(*words).refused(said, "choose another --out, or give --force to replace it.")
            assert stamps(work) == before
    assert thinwire(*prune, "--seed", "1", "--force").code == 0
    listed = {row["place"]: row for row in thinwire("info", work, "--json").json["artifacts"]}
    assert listed[f"verdicts/{TASK}"]["foreign"] == "circuit"
    assert "(of a circuit that is not here)" in " ".join(thinwire("info", work).out.split())
    ran = thinwire("verify", circuit, *VERIFY)
    assert f"{work / 'verdicts' / TASK} is the verdict on an earlier circuit; this one is checked again." in ran.err
    assert "not here" not in thinwire("info", work).out


def test_frozen_norms_and_masks_of_tokens_reach_the_circuit(work: Path, tmp_path: Path, thinwire: Thinwire) -> None:
    out = tmp_path / "circuit"
    options = ["--tokens", work / "tokens", *PRUNE, "--frozen-norms", "--mask-tokens", "--out", out]
    assert thinwire("prune", work / "model", "-t", TASK, *options).code == 0
    stored = json.loads((out / "circuit.json").read_text())
    assert stored["frozen_norms"] is True
    assert stored["removed_tokens"], "a target that nothing misses needs no token"
    assert not set(stored["removed_tokens"]) & set(stored["prompt_tokens"])
    assert thinwire("verify", out, "--model", work / "model", *VERIFY, "--out", tmp_path / "verdict").code == 0
    assert "tokens ablated to their mean" in thinwire("view", out, "--model", work / "model", "--text").out
    refused = thinwire("prune", work / "model", "-t", TASK, *options, "--granularity", "edges")
    refused.refused("mask_tokens adds tokens to masks of nodes")


def test_verify(finished: Path, thinwire: Thinwire) -> None:
    before = stamps(finished)
    ran = thinwire("verify", finished / "circuits" / TASK, *VERIFY, "--json")
    assert ran.err == reused(finished / "verdicts" / TASK)
    found = ran.json
    assert found["reused"] is True
    assert Path(found["out"]) == finished / "verdicts" / TASK
    assert found["task"] == TASK
    for name in ("nodes", "edges", "loss", "accuracy", "necessity_loss", "random_loss", "unpruned_loss", "seconds"):
        assert found[name] >= 0
    assert stamps(finished) == before, "a finished verdict is reused"
    assert "circuit alone" in thinwire("verify", finished / "circuits" / TASK, *VERIFY).out


def test_view_writes_a_page_and_keeps_the_verdict(work: Path, thinwire: Thinwire) -> None:
    before = stamps(work / "verdicts")
    ran = thinwire("view", work / "circuits" / TASK, "--out", work / "some/page.html", "--json")
    assert ran.json["out"] == str(work / "some/page.html")
    assert (work / "some/page.html").read_text("utf-8").startswith("<!doctype html>")
    assert stamps(work / "verdicts") == before, "a verdict of other settings is shown, not made again"
    assert reused(work / "verdicts" / TASK, "thinwire verify --force makes it again") in ran.err


def test_view_makes_a_missing_verdict(work: Path, thinwire: Thinwire, few_pairs: None) -> None:
    (work / "verdicts" / TASK / "meta.json").unlink()
    (work / "verdicts" / TASK / "config.json").unlink()
    (work / "verdicts" / TASK / "verdict.json").unlink()
    assert thinwire("view", work / "circuits" / TASK).code == 0
    assert thinwire("info", work / "verdicts" / TASK).code == 0


def test_view_as_text(finished: Path, thinwire: Thinwire) -> None:
    ran = thinwire("view", finished / "circuits" / TASK, "--text")
    assert ran.out.startswith(f"{TASK}: ")
    assert thinwire("view", finished / "circuits" / TASK, "--text", "--json").json["circuits"] == [ran.out[:-1]]


def test_info(finished: Path, thinwire: Thinwire) -> None:
    places = {"tokens": "tokens", "model": "model", "circuit": f"circuits/{TASK}", "verdict": f"verdicts/{TASK}"}
    for kind, place in places.items():
        found = thinwire("info", finished / place, "--json").json
        assert (found["out"], found["kind"]) == (str(finished / place), kind)
        assert len(found["id"]) == 16
        assert found["bytes"] > 0
        lines = thinwire("info", finished / place).out.splitlines()
        assert [line.split("  ")[0] for line in lines] == list(found)
        held = next(line for line in lines if line.startswith("bytes "))
        assert held.rstrip(")").endswith((" bytes", " KiB", " MiB")), "a size has a unit"
        assert not any("{" in line for line in lines), "nothing is printed as Python writes it"


def test_info_of_a_workspace(work: Path, thinwire: Thinwire) -> None:
    found = thinwire("info", work, "--json").json
    assert (found["out"], found["kind"]) == (str(work), "workspace")
    places = ["tokens", "model", f"circuits/{TASK}", f"verdicts/{TASK}", "index.html"]
    assert [row["place"] for row in found["artifacts"]] == places
    assert [row["kind"] for row in found["artifacts"]] == ["tokens", "model", "circuit", "verdict", "page"]
    (work / "model/meta.json").unlink()
    out = thinwire("info", work).out
    assert all(place in out for place in places)
    assert "unfinished" in out
    (work / "tokens/tokenizer.json").write_text("{}")
    thinwire("info", work).refused("tokenizer.json")


def test_doctor(thinwire: Thinwire) -> None:
    ran = thinwire("doctor", "--json")
    assert ran.code == 0
    assert ran.json["ok"]
    assert {"python", "packages", "AbsTopK", "disk"} <= set(ran.json["findings"])


def test_doctor_finds_what_is_wrong(thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch) -> None:
    from thinwire.cli import doctor

    monkeypatch.setattr(doctor, "NEEDED", ("torch", "no-such-package"))
    ran = thinwire("doctor")
    assert ran.code == 1
    assert "BAD" in ran.out
    assert "no-such-package" in ran.out

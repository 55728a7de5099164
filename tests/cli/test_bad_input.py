"""A user's mistakes: one sentence on stderr, exit 2, and every finished artefact as it was."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from cli_workspace import DATA, PRUNE, SHAPE, TASK, TRAIN, VERIFY, Thinwire, sign, stamps

REFUSALS: list[tuple[list[str], str]] = [
    (["trian"], "There is no verb 'trian'; did you mean train?"),
    (["xyzzy"], "see thinwire --help"),
    (["[red]\x1b[31m\nfoo"], r"'[red]\x1b[31m\nfoo'"),
    (["train", "TOKENS", "--preset", "tny", "-o", "X"], "no preset called 'tny'; did you mean tiny"),
    (["train", "TOKENS", "--preset"], "--preset needs a value"),
    (["train", "TOKENS"], "Missing from thinwire train: -o PATH, --out PATH; see thinwire train --help."),
    (["train", "TOKENS", "-o", "X", "--step", "3"], "--step, 3 (perhaps you meant --steps)"),
    (["train", "TOKENS", "-o", "X", "--steps"], "Missing value for argument '--steps'"),
    (["train", "TOKENS", "-o", "X", "--steps", "x"], "Error parsing --steps"),
    (["train", "TOKENS", "-o", "X", "--steps", "0"], "steps: input should be greater than or equal to 1"),
    (["train", "TOKENS", "-o", "X", "--learning-rate", "inf"], "learning_rate: input should be a finite number"),
    (["train", "TOKENS", "-o", "X", "--gradient", "up"], "'up' for argument '--gradient', expected one of"),
    (["train", "TOKENS", "-o", "X", "--model.d-model", "7"], "d_model 7 is not a multiple of d_head 16"),
    (["train", "TOKENS", "-o", "X", "--model.n-layers", "0"], "n_layers: input should be greater"),
    (["train", "TOKENS", "-o", "X", *TRAIN, "--device", "abacus"], "There is no device 'abacus'"),
    (["train", "TOKENS", "-o", "X", *TRAIN, "--device", "meta"], "There is no device 'meta'"),
    (["train", "TOKENS", "-o", "X"], "a vocabulary of 2048 and the tokens one of 600"),
    (["train", "TOKENS", "-o", "X", *TRAIN, "--model.context", "5000"], "tokens where 5001 are needed"),
    (["train", "TOKENS", "-o", "X", *TRAIN, "--floor", "100"], "lower the floor or raise the density"),
    (["train", "nowhere", "-o", "X"], "nowhere is not a folder"),
    (["train", "MODEL", "-o", "X"], "is a model artefact where a tokens artefact is needed"),
    (
        ["train", "TOKENS", "-o", "MODEL", *TRAIN, "--seed", "1"],
        "trained with another config; choose another --out",
    ),
    (["train", "TOKENS", "-o", "TOKENS/x", *TRAIN], "which may be replaced; choose another --out"),
    (["train", "TOKENS", "-o", "n" * 300, *TRAIN], "this path is too long; choose a shorter --out"),
    (["train", "TOKENS", "-o", "X", *TRAIN, "--density", "1e-300"], "density: input should be greater than or"),
    (["train", "TOKENS", "-o", "X", *TRAIN, "--steps", "1" + "0" * 400], "steps: input should be less than or"),
    (["train", "TOKENS", "-o", "X", "--watch.pairs", "1000000000000"], "pairs: input should be less than or"),
    (["train", "TOKENS", "-o", "TOKENS", *TRAIN], "is a tokens artefact where a model artefact is needed"),
    (["data", "-o", "X", "--vocab-size", "5"], "vocab_size: input should be greater than or equal to 257"),
    (["data", "-o", "X", "--idioms", "0", "--no-stdlib"], "The corpus is empty"),
    (["data", "-o", "X", *DATA, "--folders", "nowhere"], "nowhere is not a folder"),
    (["data", "-o", "X", *DATA, "--folders", "EMPTY"], "holds no .py files; give a folder that does"),
    (["data", "-o", "MODEL", *DATA], "holds something else than tokens"),
    (["tasks", "lst"], "There is no 'tasks lst'; use one of list, show, score"),
    (["tasks", "show", "bracket"], "There is no task called 'bracket'"),
    (["tasks", "show", TASK, "--pairs", "0"], "give at least one"),
    (["tasks", "show"], "Name a task (`thinwire tasks list` has them), or give --task-file"),
    (["tasks", "show", f"{TASK}.nonsens"], "There is no control called 'nonsens'; did you mean nonsense"),
    (["tasks", "show", TASK, "--model", "nowhere"], "nowhere cannot be read"),
    (["tasks", "show", "--task-file", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
    (["tasks", "score", "MODEL", "--task-file", "EMPTY"], "is not a file; give a JSON Lines file of pairs"),
    (["tasks", "show", TASK, "--split", "test"], "'test' for argument '--split'"),
    (["tasks", "score", "MODEL", "-t", "bracket"], "There is no task called 'bracket'"),
    (["tasks", "score", "TOKENS"], "is a tokens artefact where a model artefact is needed"),
    (["prune", "MODEL", "-t", "../../x", *PRUNE], "There is no task called '../../x'"),
    (["prune", "MODEL", "-t", "[/red]\x1b", *PRUNE], r"There is no task called '[/red]\x1b'"),
    (["prune", "MODEL", "-t", TASK, *PRUNE, "--target-loss", "0.15"], "is finished and differs in its target_loss;"),
    (["prune", "MODEL", "-t", TASK, *PRUNE, "--target-loss", "0.15", "--force"], "The whole model has loss"),
    (["prune", "MODEL", "-t", TASK, *PRUNE, "--out", "MODEL"], "holds a model where a circuit is to be written"),
    (["prune", "MODEL", "-t", TASK, *PRUNE, "--tokens", "nowhere"], "nowhere is not a folder"),
    (["verify", "MODEL"], "is a model artefact where a circuit artefact is needed"),
    (["verify", "CIRCUIT", "--pairs", "0"], "pairs: input should be greater than or equal to 2"),
    (["verify", "CIRCUIT", *VERIFY, "--out", "CIRCUIT"], "holds a circuit where a verdict is to be written"),
    (["view"], "Name at least one circuit folder"),
    (["view", "CIRCUIT", "--out", "EMPTY"], "is a folder; give the name of an HTML file"),
    (["view", "CIRCUIT", "--out", "CIRCUIT/x.html"], "which may be replaced; choose another --out"),
    (["view", "CIRCUIT", "--out", "TOKENS/x.svg"], "which may be replaced; choose another --out"),
    (["generate", "MODEL", "--prompt", "x", "--tokens", "9" * 5000], "--tokens is a number of 5,000 digits; give one"),
    (["view", "CIRCUIT", "--tokens", "MODEL"], "is a model artefact where a tokens artefact is needed"),
    (["info", "nowhere"], "nowhere is not a thinwire artefact"),
    (["info", "EMPTY"], "is not a thinwire artefact"),
    (["doctor", "now"], "Unrecognized options: now; see thinwire doctor --help."),
]


def test_refusals(finished: Path, tmp_path: Path, thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    places = {"TOKENS": "tokens", "MODEL": "model", "CIRCUIT": f"circuits/{TASK}", "TOKENS/x": "tokens/x"}
    places |= {"CIRCUIT/x.html": f"circuits/{TASK}/x.html", "TOKENS/x.svg": "tokens/x.svg"}
    paths = {name: str(finished / place) for name, place in places.items()} | {"EMPTY": str(tmp_path / "empty")}
    before = stamps(finished)
    for words, said in REFUSALS:
        thinwire(*(paths.get(word, word) for word in words)).refused(said)
        assert stamps(finished) == before, words
        assert [path.name for path in tmp_path.iterdir()] == ["empty"], "a run that cannot start leaves no folder"


CONFIGS: list[tuple[bytes | None, str]] = [
    (b'{"steps": ', "invalid JSON"),
    (b"[1]", "input should be an object"),
    (b'{"stepz": 1}', "unknown key 'stepz'"),
    (b'{"model": {"layers": 1}}', "unknown key 'model.layers'"),
    (b"\xff\xfe", "it is not UTF-8 text"),
    (b'{"steps": -1}', "greater than or equal to 1"),
    (b'{"steps": "many"}', "valid integer"),
    (b'{"density": NaN}', "density: input should be a finite number"),
    (b'{"steps": 1' + b"0" * 5000 + b"}", "number out of range"),
    (b"[" * 100_000, "invalid JSON"),
    (None, "cannot be read (No such file or directory)"),
]


def test_config_files(finished: Path, tmp_path: Path, thinwire: Thinwire) -> None:
    for number, (text, said) in enumerate(CONFIGS):
        path = tmp_path / f"{number}.config.json"
        if text is not None:
            path.write_bytes(text)
        thinwire("train", finished / "tokens", "-o", tmp_path / "X", "--config", path).refused("config.json", said)


FILES = {
    "tokens": ["config.json", "meta.json", "tokenizer.json", "stats.json", "idioms.train.00000.bin"],
    "model": ["config.json", "meta.json", "model.json", "tokenizer.json", "weights.safetensors", "summary.json"],
    f"circuits/{TASK}": ["config.json", "meta.json", "circuit.json", "means.safetensors", "summary.json"],
    f"verdicts/{TASK}": ["config.json", "meta.json", "verdict.json"],
}


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files(kind: str, work: Path, thinwire: Thinwire) -> None:
    for name in FILES[kind]:
        whole = (work / kind / name).read_bytes()
        flipped = bytes([whole[0] ^ 1]) + whole[1:]
        for content in (whole[: len(whole) // 2], b"", flipped, None):
            (work / kind / name).unlink()
            if content is not None:
                (work / kind / name).write_bytes(content)
            thinwire("info", work / kind).refused()
            for words in uses(kind, work):
                thinwire(*words).refused()
            (work / kind / name).write_bytes(whole)
        assert thinwire("info", work / kind).code == 0


def uses(kind: str, work: Path) -> list[list[object]]:
    """Verbs that read an artefact of this kind and cannot make it again."""
    circuit = work / "circuits" / TASK
    if kind == "tokens":
        return [["train", work / kind, "-o", work / "new", *TRAIN], ["prune", work / "model", "-t", TASK, *PRUNE]]
    if kind == "model":
        return [["tasks", "score", work / kind], ["prune", work / kind, "-t", TASK, *PRUNE], ["view", circuit]]
    return [["view", circuit], ["verify", circuit, *VERIFY]] if kind.startswith("circuits") else []


@pytest.mark.parametrize("kind", [f"circuits/{TASK}", f"verdicts/{TASK}", "tokens"])
def test_damage_is_mended_by_the_verb_that_makes_it(kind: str, work: Path, thinwire: Thinwire) -> None:
    makes = {
        "tokens": ["data", "--out", work / "tokens", *DATA],
        f"circuits/{TASK}": ["prune", work / "model", "-t", TASK, *PRUNE],
        f"verdicts/{TASK}": ["verify", work / "circuits" / TASK, *VERIFY],
    }
    largest = max((work / kind).iterdir(), key=lambda path: path.stat().st_size)
    for damaged in (largest, work / kind / "meta.json"):
        damaged.write_bytes(damaged.read_bytes()[:-7])
        assert thinwire(*makes[kind]).code == 0
        assert thinwire("info", work / kind).code == 0


def test_a_damaged_model_is_not_trained_over(work: Path, thinwire: Thinwire) -> None:
    (work / "model/weights.safetensors").write_bytes(b"")
    before = stamps(work)
    ran = thinwire("train", work / "tokens", "-o", work / "model", *TRAIN)
    ran.refused(f"weights.safetensors is missing, truncated or altered; delete {work / 'model'} and train again")
    assert stamps(work) == before


def test_tokens_of_another_tokenizer(work: Path, thinwire: Thinwire) -> None:
    assert thinwire("data", "--out", work / "others", *DATA, "--seed", "5").code == 0
    options = ["--tokens", work / "others"]
    thinwire("prune", work / "model", "-t", TASK, *PRUNE, *options, "--force").refused("with another tokenizer")
    thinwire("view", work / "circuits" / TASK, *options).refused("with another tokenizer")
    thinwire("train", work / "others", "-o", work / "model", *TRAIN).refused("was not made from")


def test_circuit_of_another_model(work: Path, thinwire: Thinwire) -> None:
    assert thinwire("train", work / "tokens", "-o", work / "other/model", *TRAIN, "--seed", "1").code == 0
    for words in (["verify"], ["view"], ["view", "--text"]):
        ran = thinwire(*words[:1], work / "circuits" / TASK, *words[1:], "--model", work / "other/model")
        ran.refused("was not made from")


def test_prompts_longer_than_the_context(work: Path, thinwire: Thinwire) -> None:
    options = [*TRAIN, *SHAPE[:-1], "4"]
    assert thinwire("train", work / "tokens", "-o", work / "short", *options).code == 0
    said = "more than the context of 4; use a model with a longer context"
    thinwire("tasks", "score", work / "short").refused(said)
    thinwire("prune", work / "short", "-t", TASK, *PRUNE, "--force").refused(said)


def test_foreign_checkpoints(work: Path, tmp_path: Path, thinwire: Thinwire) -> None:
    torch.save({"model": torch.zeros(3)}, tmp_path / "torch.pt")
    exploit = b"\x80\x04cos\nmkdir\n(V" + str(work / "owned").encode() + b"\ntR."
    for content in (os.urandom(4096), exploit, (tmp_path / "torch.pt").read_bytes(), b"<html>"):
        (work / "model/weights.safetensors").write_bytes(content)
        thinwire("tasks", "score", work / "model").refused("weights.safetensors is missing, truncated or altered")
        sign(work / "model")
        thinwire("tasks", "score", work / "model").refused("is not a readable thinwire weight file")
        thinwire("info", work / "model").refused("is not a readable thinwire weight file")
        assert not (work / "owned").exists()


def test_foreign_folders_are_left_alone(work: Path, tmp_path: Path, thinwire: Thinwire) -> None:
    hub = {"config.json": '{"architectures": ["GPT2"]}'}
    elsewhere = {"config.json": "{}", "meta.json": '{"made": "elsewhere"}'}
    for number, files in enumerate(({}, {"config.json": "{}"}, elsewhere, hub)):
        folder = tmp_path / f"mine{number}"
        folder.mkdir()
        for name, text in {"thesis.txt": "years of work", **files}.items():
            (folder / name).write_text(text)
        before = stamps(folder)
        for words in (["info", folder], ["tasks", "score", folder], ["train", folder, "-o", tmp_path / "X"]):
            thinwire(*words).refused()
        for verb in makers(work):
            thinwire(*verb, "--out", folder).refused()
        assert stamps(folder) == before


def makers(work: Path) -> list[list[object]]:
    """Every verb that makes an artefact, to be completed by its --out."""
    return [
        ["data", *DATA],
        ["train", work / "tokens", *TRAIN],
        ["prune", work / "model", "-t", TASK, *PRUNE],
        ["verify", work / "circuits" / TASK, *VERIFY],
    ]


def test_places_that_cannot_be_written(work: Path, tmp_path: Path, thinwire: Thinwire) -> None:
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    for out in (tmp_path / "file", tmp_path / "pipe", tmp_path / "file/below", Path("/proc/nothing")):
        for verb in makers(work):
            thinwire(*verb, "--out", out).refused("--out")
    for out in (tmp_path / "file/below.html", Path("/proc/nothing/page.html"), Path("/proc/page.html")):
        thinwire("view", work / "circuits" / TASK, "--out", out).refused("--out")
    assert (tmp_path / "file").read_text() == "x"
    assert (tmp_path / "pipe").is_fifo()


def test_a_linked_folder_stays_linked(work: Path, tmp_path: Path, thinwire: Thinwire) -> None:
    (tmp_path / "disk").mkdir()
    shutil.move(work / "tokens", tmp_path / "disk/tokens")
    (work / "tokens").symlink_to(tmp_path / "disk/tokens")
    assert thinwire("data", "--out", work / "tokens", *DATA, "--seed", "2", "--force").code == 0
    assert (work / "tokens").is_symlink()
    assert json.loads((tmp_path / "disk/tokens/config.json").read_text())["seed"] == 2

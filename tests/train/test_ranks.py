"""Runs on two and three ranks against the same runs on one, stopped, killed and resumed in another number and mode."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny import SHAPE, tiny_run

import thinwire
from thinwire import artifact
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.train import TrainConfig, train
from thinwire.train.loop import CHECKPOINT
from thinwire.train.ranks import SINGLE, Ranks

HELPER = Path(__file__).with_name("ranks_run.py")
CONFIG = tiny_run(steps=14, validate_every=7, model=SHAPE.replace(vocab_size=300, n_layers=1))
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def heed_interrupts() -> None:
    """Undo what a shell does to background jobs: they, and their children, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def launch(n_ranks: int, *words: object) -> subprocess.Popen:
    """Start a program on that many ranks, in a process group of its own."""
    command = [*LAUNCH, "--nproc-per-node", str(n_ranks), *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        command, **pipes, text=True, env=environment, start_new_session=True, preexec_fn=heed_interrupts
    )


def run_all(n_ranks: int, tokens: Tokens, runs: list[dict]) -> list[list[list[str]]]:
    """Go through runs on that many ranks; returns, for each rank, the name of every run and what came of it."""
    process = launch(n_ranks, HELPER, tokens.artifact.path, json.dumps(runs))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Warning" not in err, err
    folder = Path(next(run["out"] for run in runs if "out" in run)).parent
    return [[json.loads(x) for x in (folder / f"{rank}.jsonl").read_text().splitlines()] for rank in range(n_ranks)]


def a_run(out: Path, mode: str, config: TrainConfig = CONFIG, **more: object) -> dict:
    return {"out": str(out), "mode": mode, "config": json.loads(config.to_json()), **more}


def metrics(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out: Path) -> bytes:
    return (out / "weights.safetensors").read_bytes()


def same_course(out: Path, other: Path) -> None:
    """Both runs had the same losses to a millionth at every step, and end with the same nonzeros."""
    ours, theirs = metrics(out), metrics(other)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for mine, its in zip(ours, theirs, strict=True):
        for name in mine.keys() & {"loss", "learning_rate", "density", "nonzeros", "divergence", "turnover"}:
            assert mine[name] == pytest.approx(its[name], rel=1e-6), (name, mine["step"])
        if "gradient_rms" in mine:
            assert mine["gradient_rms"] == pytest.approx(its["gradient_rms"], rel=1e-5)
        if "val_losses" in mine:
            assert mine["val_losses"] == pytest.approx(its["val_losses"], rel=1e-6)
    twin = thinwire.load(other)
    for name, parameter in thinwire.load(out).named_parameters():
        assert torch.equal(parameter != 0, twin.get_parameter(name) != 0), name
        torch.testing.assert_close(parameter, twin.get_parameter(name), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def folder(tiny_tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CONFIG on one rank and on two in both modes, and on two that stop after step 7 and go on; then two mistakes."""
    folder = tmp_path_factory.mktemp("ranks")
    train(CONFIG, tiny_tokens, folder / "one")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "thesis.txt").write_text("mine")
    runs = [
        a_run(folder / "ddp", "ddp"),
        a_run(folder / "fsdp", "fsdp"),
        a_run(folder / "half", "fsdp", stop_at=7),
        {"copy": [str(folder / "half"), str(folder / "half_one")]},
        a_run(folder / "half", "fsdp"),
        a_run(folder / "foreign", "ddp"),
        a_run(folder / "odd", "ddp", CONFIG.replace(batch_size=5)),
        a_run(folder / "ddp", "fsdp"),
    ]
    said = run_all(2, tiny_tokens, runs)
    assert said[0] == said[1]
    (folder / "said.json").write_text(json.dumps(said[0]))
    return folder


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_two_ranks_equal_one(mode: str, folder: Path) -> None:
    same_course(folder / mode, folder / "one")
    assert artifact.open_artifact(folder / mode, "model").meta.files.keys() == (
        artifact.open_artifact(folder / "one", "model").meta.files.keys()
    )
    leftover = {path.name for path in (folder / mode).iterdir()} ^ {path.name for path in (folder / "one").iterdir()}
    assert leftover == set()


def test_stopped_ranks_go_on_bit_for_bit(folder: Path) -> None:
    assert weights(folder / "half") == weights(folder / "fsdp")
    assert metrics(folder / "half") == metrics(folder / "fsdp")


def test_a_run_of_two_goes_on_on_one(folder: Path, tiny_tokens: Tokens) -> None:
    seen = []
    shards = {path.name for path in (folder / "half_one").glob("checkpoint*")}
    assert shards == {CHECKPOINT, "checkpoint.7.1-of-2.safetensors"}
    train(CONFIG, tiny_tokens, folder / "half_one", lambda done, *_: seen.append(done))
    assert seen == list(range(8, 15))
    same_course(folder / "half_one", folder / "one")
    assert not list((folder / "half_one").glob("*checkpoint*"))


def test_errors_are_those_of_all_ranks(folder: Path) -> None:
    said = json.loads((folder / "said.json").read_text())
    assert dict(said)["foreign"] == f"{folder / 'foreign'} holds files that are not a thinwire artefact; " + (
        "choose another --out."
    )
    assert dict(said)["odd"] == (
        "A batch of 5 sequences cannot be shared equally by 2 ranks; make batch_size a multiple of 2."
    )
    assert next(what for name, what in said if name == "half") == "stopped"
    finished = [what for name, what in said if name == "ddp"]
    assert finished[0] == finished[1]
    assert finished[0].startswith("finished ")


def test_one_process_is_no_fsdp() -> None:
    with pytest.raises(UserError, match=r"fsdp needs several processes; start the command as torchrun"):
        SINGLE.placed("fsdp", "cpu", 0)
    with pytest.raises(UserError, match=r"give --device cuda instead of cuda:1"):
        Ranks(0, 2, "ddp").placed("ddp", "cuda:1", 0)


def test_shares_are_the_batch_in_order() -> None:
    batch = torch.arange(12).view(6, 2)
    for size in (1, 2, 3, 6):
        shares = [Ranks(rank, size, "ddp").share(batch) for rank in range(size)]
        assert torch.equal(torch.cat(shares), batch)
        assert {len(share) for share in shares} == {6 // size}


@pytest.fixture
def shards(folder: Path, tiny_tokens: Tokens, tmp_path: Path) -> Path:
    """A run of two ranks that hold rows, stopped after step 7."""
    out = tmp_path / "model"
    run_all(2, tiny_tokens, [a_run(out, "fsdp", stop_at=7)])
    return out


@pytest.mark.slow
def test_damaged_shards_are_refused(shards: Path, tiny_tokens: Tokens) -> None:
    (shard,) = shards.glob("checkpoint.7.*")
    whole = shard.read_bytes()
    for damaged in (whole[:-1], whole[:40], b""):
        shard.write_bytes(damaged)
        with pytest.raises(UserError, match=r"checkpoint.safetensors is damaged; delete the folder"):
            train(CONFIG, tiny_tokens, shards)
    shard.unlink()
    with pytest.raises(UserError, match=r"checkpoint.safetensors is damaged; delete the folder"):
        train(CONFIG, tiny_tokens, shards)
    shard.write_bytes(whole)
    train(CONFIG, tiny_tokens, shards)


@pytest.mark.slow
def test_a_run_goes_on_in_any_mode_and_number(folder: Path, shards: Path, tiny_tokens: Tokens, tmp_path: Path) -> None:
    """From rows on two ranks to all on two and back, from rows on two to rows on four, from one to four to two."""
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tiny_tokens, tmp_path / "one", lambda done, *_: os.kill(os.getpid(), 15) if done == 7 else None)
    run_all(2, tiny_tokens, [{"copy": [str(shards), str(tmp_path / "four")]}, a_run(shards, "ddp", stop_at=12)])
    run_all(4, tiny_tokens, [a_run(tmp_path / "four", "fsdp"), a_run(tmp_path / "one", "fsdp", stop_at=13)])
    assert len(list((tmp_path / "one").glob("checkpoint*"))) == 4
    run_all(2, tiny_tokens, [a_run(tmp_path / "one", "fsdp"), a_run(shards, "fsdp")])
    for out in (tmp_path / "four", tmp_path / "one", shards):
        same_course(out, folder / "one")


@pytest.mark.slow
def test_death_between_shards_and_head_leaves_the_checkpoint_before(
    folder: Path, tiny_tokens: Tokens, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    runs = [a_run(out, "fsdp", die_in_save=10)]
    process = launch(2, HELPER, tiny_tokens.artifact.path, json.dumps(runs))
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0, err
    found = {path.name for path in out.glob("checkpoint*")}
    assert found == {CHECKPOINT, "checkpoint.5.1-of-2.safetensors", "checkpoint.10.1-of-2.safetensors"}
    assert list(out.glob(".checkpoint*.tmp"))
    run_all(2, tiny_tokens, [a_run(out, "fsdp", stop_at=7)])
    assert {path.name for path in out.glob("*checkpoint*")} == {CHECKPOINT, "checkpoint.7.1-of-2.safetensors"}
    assert not list(out.glob(".checkpoint*"))
    run_all(2, tiny_tokens, [a_run(out, "fsdp")])
    assert weights(out) == weights(folder / "fsdp")
    assert metrics(out) == metrics(folder / "fsdp")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {
            "floor": 2,
            "recompute": True,
            "model": {"n_layers": 2, "sink": True, "positions": "concatenated", "d_pos": 6},
        },
        {"floor": 0, "sparse_biases": False, "model": {"positions": "added", "bigram": False, "active_residual": True}},
    ],
)
def test_three_ranks_with_uneven_rows_equal_one(changes: dict, tiny_tokens: Tokens, tmp_path: Path) -> None:
    model = CONFIG.model.replace(**changes.pop("model"))
    config = CONFIG.replace(batch_size=6, model=model, **changes)
    train(config, tiny_tokens, tmp_path / "one")
    run_all(3, tiny_tokens, [a_run(tmp_path / mode, mode, config) for mode in ("ddp", "fsdp")])
    for mode in ("ddp", "fsdp"):
        same_course(tmp_path / mode, tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["soft_topk", "hardconcrete"])
def test_other_ways_to_sparsity_on_two_ranks(how: str, tiny_tokens: Tokens, tmp_path: Path) -> None:
    config = CONFIG.replace(sparsity=how, floor=0)
    train(config, tiny_tokens, tmp_path / "one")
    said = run_all(2, tiny_tokens, [a_run(tmp_path / mode, mode, config) for mode in ("ddp", "fsdp")])
    same_course(tmp_path / "ddp", tmp_path / "one")
    assert dict(said[1])["fsdp"] == f"The {how} way to sparsity needs whole matrices on every rank; use ddp."


@pytest.mark.slow
@pytest.mark.parametrize("how", ["topk", "frozen"])
def test_teacher_and_start_on_two_ranks(how: str, folder: Path, tiny_tokens: Tokens, tmp_path: Path) -> None:
    config = CONFIG.replace(seed=3, sparsity=how, floor=0)
    given = {"start": str(folder / "one"), "teacher": str(folder / "fsdp")}
    train(config, tiny_tokens, tmp_path / "one", **given)
    run_all(2, tiny_tokens, [a_run(tmp_path / mode, mode, config, **given) for mode in ("ddp", "fsdp")])
    for mode in ("ddp", "fsdp"):
        assert "divergence" in metrics(tmp_path / mode)[0]
        same_course(tmp_path / mode, tmp_path / "one")


@pytest.mark.slow
def test_loss_that_is_not_finite_ends_all_ranks(tiny_tokens: Tokens, tmp_path: Path) -> None:
    config = CONFIG.replace(learning_rate=1e36, weight_decay=0, warmup=0)
    said = run_all(2, tiny_tokens, [a_run(tmp_path / mode, mode, config) for mode in ("ddp", "fsdp")])
    assert said[0] == said[1]
    assert all("stopped being finite" in what for _, what in said[0]), said


LONG = CONFIG.replace(steps=60)


def command(tokens: Path, out: Path, config: TrainConfig = LONG, mode: str = "fsdp") -> list[str]:
    """The words after torchrun's own."""
    path = out.with_suffix(".json")
    path.write_text(config.to_json())
    words = ["-m", "thinwire", "train", str(tokens), "--out", str(out), "--config", str(path), "--parallel", mode]
    return [*words, "--json"]


def sentences(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("thinwire: ")]


def wait_for_step(step: int, out: Path, process: subprocess.Popen) -> None:
    """Until a run has written of a step."""
    for _ in range(12000):
        path = out / "metrics.jsonl"
        if path.exists() and len(path.read_text().splitlines()) >= step:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    pytest.fail("nothing came")


def ranks_of(process: subprocess.Popen) -> list[int]:
    """Process ids of the ranks that a launcher started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if "thinwire" in Path(f"/proc/{child}/cmdline").read_text()]


@pytest.fixture(scope="module")
def undisturbed(tiny_tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LONG on two ranks that hold rows, by the command line."""
    out = tmp_path_factory.mktemp("undisturbed") / "model"
    process = launch(2, *command(tiny_tokens.artifact.path, out))
    printed, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert json.loads(printed.splitlines()[-1])["tokens"] == 60 * 4 * 16
    assert len([line for line in err.splitlines() if line.startswith("training: 60/60")]) == 1
    return out


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_killed_rank_ends_the_others_and_nothing_is_lost(
    victim: int, undisturbed: Path, tiny_tokens: Tokens, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    words = command(tiny_tokens.artifact.path, out)
    process = launch(2, *words)
    wait_for_step(13, out, process)
    os.kill(ranks_of(process)[victim], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert not artifact.is_finished(out)
    assert (out / CHECKPOINT).exists()
    again = launch(2, *words)
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert weights(out) == weights(undisturbed)
    assert metrics(out) == metrics(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_interrupt_of_the_launcher_saves(mode: str, tiny_tokens: Tokens, tmp_path: Path) -> None:
    """Ctrl-C reaches the launcher and every rank, and the launcher passes it on once more."""
    out = tmp_path / "model"
    config = LONG.replace(checkpoint_every=1000, steps=2000)
    process = launch(2, *command(tiny_tokens.artifact.path, out, config, mode))
    wait_for_step(13, out, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert len(sentences(err)) == 1, err
    assert "Interrupted" in err
    with safe_open(out / CHECKPOINT, framework="pt") as file:
        step = json.loads(file.metadata()["run"])["step"]
    assert step == len([line for line in metrics(out) if "loss" in line]) >= 12


@pytest.mark.slow
def test_mistakes_are_said_once(undisturbed: Path, tiny_tokens: Tokens, tmp_path: Path) -> None:
    words = command(tiny_tokens.artifact.path, tmp_path / "model")
    for wrong, said in [
        ([*words, "--batch-size", "3"], "cannot be shared equally by 2 ranks"),
        ([*words, "--speed", "9"], "Unrecognized options: --speed"),
        ([*words[:3], str(tmp_path / "nothing"), *words[4:]], "is not a folder; give the path of a tokens artefact"),
        ([*words, "--device", "cuda:1"], "give --device cuda instead of cuda:1"),
        ([*words, "--out", str(undisturbed), "--seed", "5"], "holds a model trained with another config"),
    ]:
        process = launch(2, *wrong)
        printed, err = process.communicate(timeout=120)
        assert process.returncode != 0
        assert printed == ""
        assert len(sentences(err)) == 1, err
        assert said in sentences(err)[0]
        assert "exitcode  : 2" in err
        assert str(Path(thinwire.__file__).parent) not in err, "a traceback through the package"

"""What tests of many ranks share: starting programs under torchrun, describing runs, and comparing what they leave."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import SHAPE, tiny_run

import thinwire
from thinwire.data import Tokens
from thinwire.train import TrainConfig

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
    """Both runs had the same losses to a millionth (or 1e-7) at every step, and end with the same nonzeros."""
    ours, theirs = metrics(out), metrics(other)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for mine, its in zip(ours, theirs, strict=True):
        for name in mine.keys() & {"loss", "learning_rate", "density", "nonzeros", "divergence", "turnover"}:
            assert mine[name] == pytest.approx(its[name], rel=1e-6, abs=1e-7), (name, mine["step"])
        if "gradient_rms" in mine:
            assert mine["gradient_rms"] == pytest.approx(its["gradient_rms"], rel=1e-5)
        if "val_losses" in mine:
            assert mine["val_losses"] == pytest.approx(its["val_losses"], rel=1e-6)
    twin = thinwire.load(other)
    for name, parameter in thinwire.load(out).named_parameters():
        assert torch.equal(parameter != 0, twin.get_parameter(name) != 0), name
        torch.testing.assert_close(parameter, twin.get_parameter(name), rtol=1e-4, atol=1e-5)

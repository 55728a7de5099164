"""`torchrun -m thinwire train` as a user meets it: a rank that dies, Ctrl-C, and mistakes, each said once."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from ranks_pieces import CONFIG, launch, metrics, weights
from safetensors import safe_open

import thinwire
from thinwire import artifact
from thinwire.data import Tokens
from thinwire.train import TrainConfig
from thinwire.train.loop import CHECKPOINT

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

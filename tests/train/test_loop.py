"""Training runs as folders: finished, killed, interrupted, resumed, and refused."""

import json
import math
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from cases import case
from loop_pieces import interrupting, metrics, same_run
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import tiny_run

import thinwire
from thinwire import artifact
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.model import next_token_loss
from thinwire.model.weights import count_nonzeros, sparse_parameters
from thinwire.train import Monitoring, TrainResult, read_result, train
from thinwire.train.checkpoint import digest, previous
from thinwire.train.density import n_kept
from thinwire.train.loop import CHECKPOINT
from thinwire.train.stats import validation_losses

CONFIG = tiny_run()
KILLED = Path(__file__).with_name("killed_run.py")


@pytest.fixture(scope="module")
def whole(tiny_tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run of CONFIG."""
    out = tmp_path_factory.mktemp("whole") / "model"
    train(CONFIG, tiny_tokens, out)
    return out


def test_result_and_files_of_a_finished_run(whole: Path, tiny_tokens: Tokens) -> None:
    result = read_result(whole)
    model = thinwire.load(whole)
    assert result.out == str(whole)
    assert result.tokens == 20 * 4 * 16
    assert result.nonzeros == count_nonzeros(model)
    assert result.entries == sum(p.numel() for _, p in sparse_parameters(model))
    assert result.val_losses.keys() == {"idioms"}
    assert result.val_loss == result.val_losses["idioms"]
    rows = torch.from_numpy(tiny_tokens.validation("idioms", 256, 16))
    expected = next_token_loss(model(rows[:, :-1]), rows[:, 1:]).item()
    assert result.val_loss == pytest.approx(expected, rel=1e-5)
    for name, parameter in sparse_parameters(model):
        if not name.endswith("bias"):
            assert int(parameter.count_nonzero()) == n_kept(parameter.numel(), CONFIG.density)
    opened = artifact.open_artifact(whole, "model")
    assert opened.meta.parents == {"tokens": tiny_tokens.artifact.id}
    assert opened.meta.seed == CONFIG.seed
    expected_files = {"model.json", "weights.safetensors", "tokenizer.json", "summary.json", "metrics.jsonl"}
    assert set(opened.meta.files) == {"config.json"} | expected_files
    assert {path.name for path in whole.iterdir()} - {".lock"} == {"meta.json", "config.json"} | expected_files


def test_metrics_hold_every_step_and_validation(whole: Path) -> None:
    lines = metrics(whole)
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 21))
    assert all(math.isfinite(line["loss"]) and line["gradient_rms"] > 0 for line in steps)
    assert [line["step"] for line in lines if "val_losses" in line] == [8, 16, 20]
    assert lines[-1]["val_losses"] == read_result(whole).val_losses
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_finished_run_is_returned_as_it_is(whole: Path, tiny_tokens: Tokens) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in whole.iterdir()}

    def never(done: int, total: int, status: str) -> None:
        raise AssertionError("trained again")

    assert train(CONFIG, tiny_tokens, whole, monitoring=Monitoring(never)) == read_result(whole)
    assert {path.name: path.stat().st_mtime_ns for path in whole.iterdir()} == before


@pytest.mark.parametrize("die_at", [3, 13])
def test_killed_run_resumes_bit_for_bit(die_at: int, whole: Path, tiny_tokens: Tokens, tmp_path: Path) -> None:
    out = tmp_path / "model"
    arguments = [CONFIG.to_json(), str(tiny_tokens.artifact.path), str(out), str(die_at)]
    killed = subprocess.run([sys.executable, str(KILLED), *arguments], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not artifact.is_finished(out)
    assert (out / CHECKPOINT).exists() == (die_at > 5)
    assert [line["step"] for line in metrics(out) if "loss" in line] == list(range(1, die_at + 1))
    with pytest.raises(UserError, match="is unfinished"):
        thinwire.load(out)
    seen = []
    train(CONFIG, tiny_tokens, out, monitoring=Monitoring(lambda done, total, status: seen.append(done)))
    assert seen == list(range(1 + die_at // 5 * 5, 21))
    same_run(out, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_the_run_resumes(
    number: signal.Signals, whole: Path, tiny_tokens: Tokens, tmp_path: Path
) -> None:
    handler = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tiny_tokens, tmp_path, monitoring=interrupting(7, number))
    assert signal.getsignal(number) is handler
    assert not artifact.is_finished(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tiny_tokens, tmp_path, monitoring=interrupting(20, number))
    train(CONFIG, tiny_tokens, tmp_path)
    same_run(tmp_path, whole)
    assert not (tmp_path / CHECKPOINT).exists()


def test_metrics_line_cut_by_a_crash_is_dropped(whole: Path, tiny_tokens: Tokens, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tiny_tokens, tmp_path, monitoring=interrupting(7))
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 8, "loss": 1.0}\n{"step": 9, "lo')
    train(CONFIG, tiny_tokens, tmp_path)
    same_run(tmp_path, whole)


def test_recomputed_validation_is_that_of_all_batches(whole: Path, tiny_tokens: Tokens) -> None:
    model = thinwire.load(whole)
    config = CONFIG.replace(validation_tokens=7 * 16, batch_size=3)  # 7 windows in batches of 3, 3 and 1
    rows = torch.from_numpy(tiny_tokens.validation("idioms", 7 * 16, 16))
    each = [next_token_loss(model(row[None, :-1]), row[None, 1:]).item() for row in rows]
    assert validation_losses(model, tiny_tokens, config)["idioms"] == pytest.approx(sum(each) / 7, rel=1e-5)


@pytest.fixture
def half(tiny_tokens: Tokens, tmp_path: Path) -> Path:
    """A run that was interrupted after step 7."""
    out = tmp_path / "half"
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tiny_tokens, out, monitoring=interrupting(7))
    return out


@pytest.fixture
def alone(half: Path) -> Path:
    """The same run with its last checkpoint alone."""
    previous(half / CHECKPOINT).unlink()
    return half


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(out: Path, tokens: Tokens, match: str, config: thinwire.TrainConfig = CONFIG) -> None:
    before = contents(out)
    with pytest.raises(UserError, match=match):
        train(config, tokens, out)
    assert contents(out) == before


def test_changed_config_is_refused(whole: Path, half: Path, tiny_tokens: Tokens) -> None:
    other = CONFIG.replace(learning_rate=0.06)
    refused(whole, tiny_tokens, "holds a model trained with another config", other)
    refused(half, tiny_tokens, "holds an unfinished run with another config", other)


def test_other_tokens_are_refused(whole: Path, half: Path, other_tokens: Tokens) -> None:
    refused(whole, other_tokens, "was not made from")
    refused(half, other_tokens, "was trained with other tokens")


def test_tokens_of_another_vocabulary_are_refused(tiny_tokens: Tokens, tmp_path: Path) -> None:
    config = CONFIG.replace(model=CONFIG.model.replace(vocab_size=301))
    refused(tmp_path, tiny_tokens, "a vocabulary of 301 and the tokens one of 300", config)


def test_floor_that_does_not_fit_is_refused_before_anything_is_written(tiny_tokens: Tokens, tmp_path: Path) -> None:
    refused(tmp_path, tiny_tokens, "A floor of 9 needs", CONFIG.replace(floor=9))


def test_truncated_checkpoint_is_refused(alone: Path, tiny_tokens: Tokens) -> None:
    whole = (alone / CHECKPOINT).read_bytes()
    for left in [0, 4, 500, -1]:
        with case(left):
            (alone / CHECKPOINT).write_bytes(whole[:left])
            refused(alone, tiny_tokens, "checkpoint.safetensors is damaged; delete the folder")


def test_foreign_checkpoint_is_refused(alone: Path, tiny_tokens: Tokens) -> None:
    for run in [
        None,
        "{}",
        "[]",
        "7",
        '{"parents": {"tokens": "TOKENS"}, "step": 7}',
        '{"parents": {"tokens": "TOKENS"}}',
        *(
            f'{{"parents": {{"tokens": "TOKENS"}}, "shards": [], "step": {step}, "seconds": {seconds}}}'
            for step, seconds in (
                ('"x"', 1),
                (21, 1),
                (-1, 1),
                (2.5, 1),
                (7, "NaN"),
                (7, "Infinity"),
                (7, -1),
                (7, '"x"'),
            )
        ),
        '{"parents": 3}',
    ]:
        with case(run):
            tensors = load_file(alone / CHECKPOINT)
            text = None if run is None else run.replace("TOKENS", tiny_tokens.artifact.id)
            if text and isinstance(stated := json.loads(text), dict):  # with a digest that is right
                text = json.dumps(stated | {"sha256": digest(stated, sorted(tensors), tensors.__getitem__)})
            save_file(tensors, alone / CHECKPOINT, metadata=None if text is None else {"run": text})
            refused(alone, tiny_tokens, "checkpoint.safetensors is damaged; delete the folder")


def test_checkpoint_of_an_earlier_version_is_told_from_a_damaged_one(alone: Path, tiny_tokens: Tokens) -> None:
    with safe_open(alone / CHECKPOINT, framework="pt") as file:
        run = {name: value for name, value in json.loads(file.metadata()["run"]).items() if name != "sha256"}
    save_file(load_file(alone / CHECKPOINT), alone / CHECKPOINT, metadata={"run": json.dumps(run)})
    refused(alone, tiny_tokens, "was written by an earlier thinwire, .*; delete the folder .* or resume with that")


def test_checkpoint_of_another_shape_is_refused(half: Path, tiny_tokens: Tokens) -> None:
    config = CONFIG.replace(model=CONFIG.model.replace(d_model=32))
    artifact.write_text(half / "config.json", config.to_json())
    refused(half, tiny_tokens, "checkpoint.safetensors is damaged; delete the folder", config)


def test_flipped_bits_of_a_checkpoint_are_noticed(
    half: Path, whole: Path, tiny_tokens: Tokens, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The run resumes from the checkpoint before, says so, and ends in the same weights; without one it is refused."""
    content = (half / CHECKPOINT).read_bytes()
    for place in (len(content) // 2, len(content) - 1, 3):
        with case(place):
            copy = tmp_path / f"flipped {place}"
            shutil.copytree(half, copy)
            flipped = bytearray(content)
            flipped[place] ^= 1
            (copy / CHECKPOINT).write_bytes(flipped)
            seen: list[int] = []
            caplog.clear()
            train(CONFIG, tiny_tokens, copy, monitoring=Monitoring(lambda done, *_, seen=seen: seen.append(done)))
            assert seen[0] == 6
            assert [record.getMessage() for record in caplog.records] == [
                f"{copy / CHECKPOINT} is damaged; the run resumes from step 5, before it."
            ]
            assert (copy / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
            assert not list(copy.glob("*checkpoint*"))
            (half / CHECKPOINT).write_bytes(flipped)
    previous(half / CHECKPOINT).unlink()
    refused(half, tiny_tokens, "checkpoint.safetensors is damaged; delete the folder")


def test_second_writer_is_refused(half: Path, tiny_tokens: Tokens) -> None:
    with artifact.sole_writer(half):
        refused(half, tiny_tokens, "Another process is writing in")
    train(CONFIG, tiny_tokens, half)


def test_foreign_folder_is_refused(tiny_tokens: Tokens, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    refused(tmp_path, tiny_tokens, "holds files that are not a thinwire artefact")
    with pytest.raises(UserError, match="is a file"):
        train(CONFIG, tiny_tokens, tmp_path / "thesis.txt")
    with pytest.raises(UserError, match=r"was not made from|is a tokens artefact"):
        train(CONFIG, tiny_tokens, tiny_tokens.artifact.path)


def test_diverging_run_says_so_and_keeps_its_checkpoint(tiny_tokens: Tokens, tmp_path: Path) -> None:
    config = CONFIG.replace(learning_rate=1e36, weight_decay=0, warmup=0)
    with pytest.raises(UserError, match="The loss stopped being finite at step"):
        train(config, tiny_tokens, tmp_path)
    assert not artifact.is_finished(tmp_path)


def test_summary_is_the_result_without_its_place(whole: Path) -> None:
    stored = json.loads((whole / "summary.json").read_text())
    assert stored == {name: value for name, value in asdict(read_result(whole)).items() if name != "out"}
    assert stored.keys() | {"out"} == TrainResult.__dataclass_fields__.keys()

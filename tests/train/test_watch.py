"""Watching a run: it changes no weight and no random number, survives interruption, and writes what it says."""

import json
import os
import random
import signal
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import case
from tiny import tiny_run

import thinwire
from thinwire import artifact
from thinwire.circuit import Circuit
from thinwire.data import DataConfig, Tokens, build
from thinwire.errors import UserError
from thinwire.model.weights import count_nonzeros
from thinwire.prune import PruneConfig
from thinwire.stages import Watching, train_stage
from thinwire.tasks import TASKS
from thinwire.train import Monitoring, WatchConfig, read_metrics, read_result, train
from thinwire.train.metrics import Metrics
from thinwire.view.report import REPORT

TASK = "bracket_counting"
SHAPE = {"n_layers": 1, "vocab_size": 600, "context": 64}
CONFIG = tiny_run(steps=6, validate_every=2, checkpoint_every=3, validation_tokens=128)
CONFIG = CONFIG.replace(model=CONFIG.model.replace(**SHAPE))
WATCH = WatchConfig(tasks=(TASK,), pairs=8, circuits=(TASK,), circuits_at=(2, 6))
PRUNE = PruneConfig(target_loss=3, steps=3, trials=1, train_pairs=8, validation_pairs=8, heldout_pairs=8)
PRUNE = PRUNE.replace(batch_pairs=4, mean_tokens=512)
WATCHING = Watching(WATCH, PRUNE)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    """With a vocabulary that has the answers of the task."""
    return build(DataConfig(idioms=300, stdlib=False, vocab_size=600), tmp_path_factory.mktemp("watch") / "tokens")


@pytest.fixture(scope="module")
def watched(tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The watched run of CONFIG."""
    out = tmp_path_factory.mktemp("watched") / "model"
    train_stage(CONFIG, tokens, out, watching=WATCHING)
    return out


def lines(out: Path, key: str) -> dict[int, dict]:
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[key] for line in found if key in line}


def test_watching_changes_neither_weights_nor_identity_nor_random_numbers(
    watched: Path, tokens: Tokens, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    train(CONFIG, tokens, tmp_path / "plain")
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert (tmp_path / "plain/weights.safetensors").read_bytes() == (watched / "weights.safetensors").read_bytes()
    plain, seen = (artifact.open_artifact(folder, "model") for folder in (tmp_path / "plain", watched))
    assert plain.id == seen.id
    assert plain.meta.files["metrics.jsonl"] != seen.meta.files["metrics.jsonl"]
    torch.manual_seed(0)
    train_stage(CONFIG, tokens, tmp_path / "again", watching=WATCHING)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_scores_and_circuits_are_those_of_the_model_of_that_step(watched: Path, tokens: Tokens) -> None:
    scores, forming = lines(watched, "tasks"), lines(watched, "forming")
    assert list(scores) == [2, 4, 6]
    assert list(forming) == [2, 6]
    for step, found in forming.items():
        place = watched.parent / "model-forming" / str(step)
        model, circuit = thinwire.load(place / "model"), Circuit.load(place / "circuits" / TASK)
        score = TASKS[TASK].score(model, tokens.tokenizer, "validation", 8, 0)
        assert scores[step][TASK] == pytest.approx({"loss": score.loss, "accuracy": score.accuracy}, rel=1e-5)
        assert circuit.artifact is not None
        assert circuit.scores is not None
        artifact.require_parent(circuit.artifact, "model", artifact.open_artifact(place / "model", "model"))
        assert found[TASK] == {
            "nodes": len(circuit.nodes),
            "edges": len(circuit.edges(model)),
            "loss": circuit.scores.loss,
        }
        result = read_result(place / "model")
        assert (result.nonzeros, result.tokens) == (count_nonzeros(model), step * 4 * 64)
        assert result.val_losses == lines(watched, "val_losses")[step]
    last = watched.parent / "model-forming/6/model/weights.safetensors"
    assert last.read_bytes() == (watched / "weights.safetensors").read_bytes()
    assert read_metrics(watched)[f"forming/{TASK}/nodes"].steps == (2, 6)


@pytest.mark.parametrize("at", [3, 6])
def test_interrupted_and_resumed_it_writes_the_same(at: int, watched: Path, tokens: Tokens, tmp_path: Path) -> None:
    def interrupt(done: int, total: int, status: str) -> None:
        if done == at:
            os.kill(os.getpid(), signal.SIGINT)

    out = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        train_stage(CONFIG, tokens, out, interrupt, watching=WATCHING)
    assert not (out / REPORT).exists()
    train_stage(CONFIG, tokens, out, watching=WATCHING)
    assert (out / "metrics.jsonl").read_text() == (watched / "metrics.jsonl").read_text()
    assert (out / REPORT).exists()


def test_a_task_the_model_cannot_do_is_noted_and_training_goes_on(tokens: Tokens, tmp_path: Path) -> None:
    strict = PRUNE.replace(target_loss=0.01)
    result = train_stage(CONFIG, tokens, tmp_path / "model", watching=Watching(WATCH, strict))
    assert result.tokens == 6 * 4 * 64
    assert all("train it longer" in found[TASK]["missed"] for found in lines(tmp_path / "model", "forming").values())


def test_what_cannot_be_watched_is_refused_before_training(tokens: Tokens, tmp_path: Path) -> None:
    for watch, said in [
        ({"tasks": ["bracket"]}, "no task called 'bracket'; did you mean bracket_brace, bracket_counting"),
        ({"circuits": ["quote"], "circuits_at": [2]}, "no task called 'quote'"),
        ({"circuits": [TASK], "circuits_at": [2, 7]}, "names step 7 and the run ends at 6"),
    ]:
        with case(watch, said):
            with pytest.raises(UserError, match=said):
                train_stage(CONFIG, tokens, tmp_path / "model", watching=Watching(WatchConfig(**watch)))
            assert list(tmp_path.iterdir()) == []


def test_circuits_and_their_steps_go_together() -> None:
    for steps in [(), (0,)]:
        with case(steps), pytest.raises(ValueError, match="circuits_at"):
            WatchConfig(circuits=(TASK,), circuits_at=steps)


def test_tensorboard_holds_every_number_once(tokens: Tokens, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def interrupt(done: int, total: int, status: str) -> None:
        if done == 4:  # after the checkpoint of step 3
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train(CONFIG, tokens, tmp_path, monitoring=Monitoring(interrupt, track=("tensorboard",)))
    train(CONFIG, tokens, tmp_path, monitoring=Monitoring(track=("tensorboard",)))
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    curves = read_metrics(tmp_path)
    assert set(events.Tags()["scalars"]) == set(curves)
    assert "val_losses/idioms" in curves
    for name, curve in curves.items():
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in found] == list(curve.steps), name
        assert [value for _, value in found] == pytest.approx(list(curve.values), rel=1e-6)


def test_wandb_is_given_every_number_and_stays_one_run(tokens: Tokens, tmp_path: Path, monkeypatch) -> None:
    begun, logged = [], []
    run = types.SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: None)
    fake = types.ModuleType("wandb")
    monkeypatch.setattr(fake, "init", lambda **options: begun.append(options) or run, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", fake)

    def interrupt(done: int, total: int, status: str) -> None:
        if done == 4:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train(CONFIG, tokens, tmp_path, monitoring=Monitoring(interrupt, track=("wandb",)))
    train(CONFIG, tokens, tmp_path, monitoring=Monitoring(track=("wandb",)))
    assert begun[0]["id"] == begun[1]["id"]
    assert begun[0]["config"]["steps"] == 6
    assert {(step, name, value) for step, values in logged for name, value in values.items()} == {
        (step, name, value)
        for name, curve in read_metrics(tmp_path).items()
        for step, value in zip(curve.steps, curve.values, strict=True)
    }


@pytest.mark.parametrize(
    ("name", "said"), [("wandb", r"pip install 'thinwire\[track\]'"), ("mlflow", "no sink called")]
)
def test_a_sink_that_is_not_there_is_refused_at_once(
    name: str, said: str, tokens: Tokens, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=said):
        train(CONFIG, tokens, tmp_path / "model", monitoring=Monitoring(track=(name,)))
    assert list(tmp_path.iterdir()) == []


def test_lines_after_the_checkpoint_are_dropped_on_entry(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        Metrics(path, step).add(step, loss=float(step))
    Metrics(path, 2)
    assert read_metrics(tmp_path)["loss"].steps == (1, 2)

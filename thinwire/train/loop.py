"""The training loop: sequences steps, logs, measures, saves, resumes. The arithmetic is in `step`.

1. Open the folder: a finished run is returned as it is, an interrupted one resumes from its checkpoint.
2. Step; every so often write a line of metrics, a validation loss, a checkpoint.
3. At the end write sparse weights, the tokenizer and a summary, and finish the artefact.
"""

import json
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from pydantic import with_config

from thinwire import artifact
from thinwire.config import STRICT, read_record
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.model.weights import count_nonzeros, count_sparse_entries, save_weights
from thinwire.progress import Report, silent
from thinwire.train import checkpoint
from thinwire.train.config import TrainConfig
from thinwire.train.inputs import Inputs
from thinwire.train.interrupt import StopRequest, stop_on_signal
from thinwire.train.stats import Metrics, validation_losses
from thinwire.train.step import State, new_state, train_step

CHECKPOINT = "checkpoint.safetensors"


@with_config(STRICT)
@dataclass(frozen=True)
class TrainResult:
    """What a finished training run reports."""

    out: str = field(default="", kw_only=True)
    """The model's folder."""
    val_loss: float
    """Held-out cross-entropy, nats per token, corpus parts weighted as in training."""
    val_losses: dict[str, float]
    """The same per corpus part."""
    nonzeros: int
    """Nonzero entries of the sparse parameters (L0)."""
    entries: int
    """All entries of the sparse parameters."""
    tokens: int
    """Tokens trained on."""
    tokens_per_second: float
    seconds: float
    """Wall-clock time, over all sessions of the run, validation and checkpoints included."""


def train(
    config: TrainConfig,
    tokens: Tokens,
    out: Path | str,
    report: Report = silent,
    device: str = "cpu",
    start: Path | str | None = None,
    teacher: Path | str | None = None,
) -> TrainResult:
    """Train a model into the folder `out`, or resume or return what is there.

    `start` is a model folder whose weights the run begins with; `teacher` one whose predictions it is to match too.

    Raises UserError for a folder of another run, tokens of another vocabulary or too few of them, a device that is not
    there, or a loss that is not finite, and KeyboardInterrupt, after saving, when asked to stop.
    """
    out = Path(out)
    check_device(device)
    inputs = Inputs.open(config, tokens, start, teacher)
    artifact.refuse_foreign(out)
    if artifact.is_finished(out):
        return _finished(config, inputs, out)
    state = new_state(config, inputs.start, inputs.teacher)
    artifact.make_parents(out / "config.json")
    with artifact.sole_writer(out), stop_on_signal() as stop:
        if artifact.is_finished(out):  # by another process, before it let go of the folder
            return _finished(config, inputs, out)
        seconds = _enter(config, inputs, out, state)
        state.to(torch.device(device))
        seconds = _run(config, inputs, out, state, seconds, report, stop)
        return _finish(config, inputs, out, state, seconds)


def read_result(folder: Path | str) -> TrainResult:
    """The result of a finished run from its folder."""
    opened = artifact.open_artifact(Path(folder), "model")
    refusal = f"{folder} does not hold a readable summary.json; delete it and train again."
    return replace(read_record(TrainResult, opened.path / artifact.SUMMARY, refusal), out=str(folder))


def check_device(device: str) -> None:
    """Raise UserError when nothing can be computed on a device of this name."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"There is no device '{device}' to compute on here; leave --device out for the CPU.") from None


def _finished(config: TrainConfig, inputs: Inputs, out: Path) -> TrainResult:
    try:
        opened = artifact.open_artifact(out, "model")
    except UserError as error:
        remedy = f"delete {out} and train again"
        raise UserError(str(error).replace("make the artefact again", remedy)) from None
    if opened.config(TrainConfig) != config:
        raise UserError(f"{out} holds a model trained with another config; choose another --out.")
    for role, parent in inputs.parents.items():
        artifact.require_parent(opened, role, parent)
    return read_result(out)


def _enter(config: TrainConfig, inputs: Inputs, out: Path, state: State) -> float:
    """Begin or re-enter an unfinished run; returns the seconds already spent on it."""
    if (out / "config.json").exists() and TrainConfig.load(out / "config.json") != config:
        raise UserError(f"{out} holds an unfinished run with another config; finish that, or choose another --out.")
    artifact.write_text(out / "config.json", config.to_json())
    if (out / CHECKPOINT).exists():
        return checkpoint.restore(state, out / CHECKPOINT, inputs.ids)
    return 0.0


def _run(
    config: TrainConfig, inputs: Inputs, out: Path, state: State, spent: float, report: Report, stop: StopRequest
) -> float:
    began = time.perf_counter() - spent
    device = next(state.model.parameters()).device
    metrics = Metrics(out / "metrics.jsonl", state.step)

    def save() -> None:
        checkpoint.save(state, out / CHECKPOINT, inputs.ids, time.perf_counter() - began)

    while state.step < config.steps:
        rows = inputs.tokens.batch(state.step, config.seed, config.batch_size, config.model.context)
        done = train_step(state, torch.from_numpy(rows).to(device), config)
        if state.step % config.log_every == 0 or state.step == config.steps:
            measured = {name: value for name, value in asdict(done).items() if value is not None}
            with state.objective.settled(state.step) as model:
                metrics.add(step=state.step, nonzeros=count_nonzeros(model), **measured)
        if state.step % config.validate_every == 0 and state.step < config.steps:
            with state.objective.settled(state.step) as model:
                metrics.add(step=state.step, val_losses=validation_losses(model, inputs.tokens, config))
        report(state.step, config.steps, f"loss {done.loss:.3f}, density {done.density:.2%}")
        if stop.asked:
            save()
            raise KeyboardInterrupt
        if state.step % config.checkpoint_every == 0:
            save()
    return time.perf_counter() - began


def _finish(config: TrainConfig, inputs: Inputs, out: Path, state: State, seconds: float) -> TrainResult:
    tokens, model = inputs.tokens, state.model
    state.objective.sparsifier.settle(model, state.step)
    losses = validation_losses(model, tokens, config)
    weights = {part: tokens.config.weight(part) for part in tokens.parts}
    trained = config.steps * config.batch_size * config.model.context
    result = TrainResult(
        out=str(out),
        val_loss=sum(weights[part] * losses[part] for part in losses) / sum(weights[part] for part in losses),
        val_losses=losses,
        nonzeros=count_nonzeros(model),
        entries=count_sparse_entries(model),
        tokens=trained,
        tokens_per_second=trained / seconds,
        seconds=seconds,
    )
    Metrics(out / "metrics.jsonl", config.steps).add(step=config.steps, val_losses=losses)
    save_weights(model, out / "weights.safetensors")
    artifact.write_text(out / "model.json", config.model.to_json())
    artifact.write_text(
        out / artifact.SUMMARY, json.dumps({k: v for k, v in asdict(result).items() if k != "out"}, indent=2)
    )
    shutil.copyfile(tokens.artifact.path / "tokenizer.json", out / "tokenizer.json")
    files = ["model.json", "weights.safetensors", "tokenizer.json", artifact.SUMMARY, "metrics.jsonl"]
    artifact.finish(out, "model", config, inputs.parents, files, seed=config.seed)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return result

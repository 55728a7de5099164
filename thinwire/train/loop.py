"""The training loop: sequences steps, logs, measures, saves, resumes. The arithmetic is in `step`.

1. Open the folder: a finished run is returned as it is, an interrupted one resumes from its checkpoint.
2. Step; every so often write a line of metrics, a validation loss, a checkpoint.
3. At the end write sparse weights, the tokenizer and a summary, and finish the artefact.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from thinwire import artifact
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.progress import Report, silent
from thinwire.train import checkpoint
from thinwire.train.config import TrainConfig
from thinwire.train.finite import NotFinite, check_weights
from thinwire.train.inputs import Inputs
from thinwire.train.interrupt import StopRequest, stop_on_signal
from thinwire.train.memory import hold_freed_memory
from thinwire.train.metrics import Metrics, Muted
from thinwire.train.ranks import SINGLE, Ranks
from thinwire.train.result import TrainResult, read_result, result_of, write_model
from thinwire.train.rows import count_nonzeros, gathered
from thinwire.train.sinks import check_sinks, open_sinks
from thinwire.train.stats import measure, support, turnover
from thinwire.train.step import State, StepReport, new_state, train_step
from thinwire.train.watch import Watcher

CHECKPOINT = "checkpoint.safetensors"


def train(
    config: TrainConfig,
    tokens: Tokens,
    out: Path | str,
    report: Report = silent,
    device: str = "cpu",
    start: Path | str | None = None,
    teacher: Path | str | None = None,
    watchers: Sequence[Watcher] = (),
    track: Sequence[str] = (),
    ranks: Ranks = SINGLE,
) -> TrainResult:
    """Train a model into the folder `out`, or resume or return what is there.

    `start` is a model folder whose weights the run begins with; `teacher` one whose predictions it is to match too.
    `watchers` measure the model now and then; `track` names sinks of the numbers besides metrics.jsonl. `ranks` are the
    processes that train together, each of which calls this; they have devices of their own.

    Raises UserError for a folder of another run, tokens of another vocabulary or too few of them, a device that is not
    there, or a loss that is not finite, and KeyboardInterrupt, after saving, when asked to stop.
    """
    out = Path(out)
    hold_freed_memory()
    with ranks.together():
        check_device(device if ranks.mode == "single" else ranks.device)
        ranks.check_batch(config.batch_size)
        check_sinks(track)
        inputs = Inputs.open(config, tokens, start, teacher)
        artifact.refuse_foreign(out)
    if ranks.any(artifact.is_finished(out)):
        with ranks.together():
            return _finished(config, inputs, out)
    state = new_state(config, inputs.start, inputs.teacher, ranks)
    with _sole_writer(out, ranks), stop_on_signal(patient=ranks.world_size > 1) as stop:
        if ranks.any(artifact.is_finished(out)):  # by another process, before it let go of the folder
            with ranks.together():
                return _finished(config, inputs, out)
        seconds = _enter(config, inputs, out, state)
        if ranks.mode == "single":
            state.to(torch.device(device))
        with open_sinks(track if ranks.first else (), out, config, state.step) as sinks:
            metrics = Metrics(out / artifact.METRICS, state.step, sinks) if ranks.first else Muted()
            try:
                seconds = _run(config, inputs, out, state, seconds, report, stop, metrics, watchers)
            except NotFinite as error:
                raise NotFinite(f"{str(error).removesuffix('.')} ({_kept(out / CHECKPOINT)}).") from None
            return _finish(config, inputs, out, state, seconds, metrics)


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


@contextmanager
def _sole_writer(out: Path, ranks: Ranks) -> Iterator[None]:
    """Within the block, rank 0 holds the folder. Raises UserError, on all ranks, when another process does."""
    with ExitStack() as stack:
        with ranks.together():
            if ranks.first:
                artifact.make_parents(out / "config.json")
                stack.enter_context(artifact.sole_writer(out))
        yield


def _enter(config: TrainConfig, inputs: Inputs, out: Path, state: State) -> float:
    """Begin or re-enter an unfinished run; returns the seconds already spent on it."""
    ranks = state.ranks
    with ranks.together():
        if ranks.first and (out / "config.json").exists() and TrainConfig.load(out / "config.json") != config:
            raise UserError(f"{out} holds an unfinished run with another config; finish that, or choose another --out.")
        if ranks.first:
            artifact.write_text(out / "config.json", config.to_json())
    if not ranks.any((out / CHECKPOINT).exists()):
        return 0.0
    with ranks.together():
        return checkpoint.restore(state, out / CHECKPOINT, inputs.ids)


def _kept(path: Path) -> str:
    step = checkpoint.saved_step(path)
    return f"the checkpoint of step {step} is kept" if step else "there is no checkpoint yet"


def _run(
    config: TrainConfig,
    inputs: Inputs,
    out: Path,
    state: State,
    spent: float,
    report: Report,
    stop: StopRequest,
    metrics: Metrics,
    watchers: Sequence[Watcher],
) -> float:
    began = time.perf_counter() - spent
    device = next(state.model.parameters()).device

    def save() -> None:
        with state.ranks.together(NotFinite):
            check_weights(state.objective, state.step)
        checkpoint.save(state, out / CHECKPOINT, inputs.ids, time.perf_counter() - began)

    while state.step < config.steps:
        rows = inputs.tokens.batch(state.step, config.seed, config.batch_size, config.model.context)
        before = _support_before(state, config)
        done = train_step(state, torch.from_numpy(rows).to(device), config)
        _observe(config, inputs.tokens, state, done, before, metrics, watchers)
        report(state.step, config.steps, f"loss {done.loss:.3f}, density {done.density:.2%}")
        if state.ranks.any(stop.asked):
            save()
            raise KeyboardInterrupt
        if state.step % config.checkpoint_every == 0:
            save()
    return time.perf_counter() - began


def _support_before(state: State, config: TrainConfig) -> dict[str, Tensor] | None:
    """The support that the coming step starts from, where a line is written about that step."""
    step = state.step + 1
    if step % config.log_every and step != config.steps:
        return None
    with state.objective.settled(state.step) as model:
        return support(model)


def _observe(
    config: TrainConfig,
    tokens: Tokens,
    state: State,
    done: StepReport,
    before: dict[str, Tensor] | None,
    metrics: Metrics,
    watchers: Sequence[Watcher],
) -> None:
    """Write what is due about the step just done: its own line, a measurement of the model, what watchers saw."""
    step = state.step
    measures = step % config.validate_every == 0 and step < config.steps
    due = [watcher for watcher in watchers if watcher.due(step)]
    if before is None and not measures and not due:
        return
    with state.objective.settled(step) as model:
        if before is not None:
            reported = {name: value for name, value in asdict(done).items() if value is not None}
            metrics.add(step, nonzeros=count_nonzeros(model), turnover=turnover(before, model), **reported)
        whole = gathered(model, state.ranks.first) if measures or due else None
        if whole is not None and measures:
            metrics.add(step, **asdict(measure(whole, tokens, config)))
        if whole is not None:
            for watcher in due:
                metrics.add(step, **watcher(step, whole))


def _finish(
    config: TrainConfig, inputs: Inputs, out: Path, state: State, seconds: float, metrics: Metrics
) -> TrainResult:
    state.objective.sparsifier.settle(state.model, state.step)
    model = gathered(state.model, state.ranks.first)
    if model is None:
        state.ranks.wait()
        return read_result(out)
    measured = measure(model, inputs.tokens, config)
    metrics.add_once(config.steps, **asdict(measured))
    result = result_of(model, config, inputs.tokens, measured.val_losses, config.steps, seconds)
    write_model(out, model, config, inputs.tokens, inputs.parents, result, also=[artifact.METRICS])
    checkpoint.remove(out / CHECKPOINT)
    state.ranks.wait()
    return replace(result, out=str(out))

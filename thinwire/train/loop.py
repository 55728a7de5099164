"""The training loop: it runs steps, logs, measures, saves and resumes. The arithmetic is in `step`.

1. Open the folder: a finished run is returned as it is, an interrupted one resumes from its checkpoint.
2. Step; at regular steps write a line of metrics, a validation loss, a checkpoint.
3. At the end write sparse weights, the tokenizer and a summary, and finish the artefact.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from thinwire import artifact
from thinwire.artifact.tensors import write_tensors
from thinwire.data import Tokens
from thinwire.engine.process_memory import hold_freed_memory
from thinwire.errors import UserError
from thinwire.files import read_text
from thinwire.interrupt import Interrupted, StopRequest, stop_on_signal
from thinwire.model.precision import own_modes
from thinwire.train import checkpoint
from thinwire.train.config import TrainConfig
from thinwire.train.finite import NotFinite, check_weights
from thinwire.train.inputs import NO_SOURCES, Inputs, Sources
from thinwire.train.language import LANGUAGE_MODELING
from thinwire.train.metrics import Metrics, Muted
from thinwire.train.objective import ObjectiveFactory
from thinwire.train.ranks import SINGLE, Ranks
from thinwire.train.result import (
    OBJECTIVE,
    OBJECTIVE_STATE,
    TrainResult,
    read_result,
    result_in,
    result_of,
    write_model,
)
from thinwire.train.rows import count_nonzeros, gathered
from thinwire.train.sinks import Sink, check_sinks, open_sinks
from thinwire.train.sparse_step import check_compute
from thinwire.train.stats import measure, support, turnover
from thinwire.train.step import State, StepReport, new_state, train_step
from thinwire.train.watch import UNMONITORED, Monitoring

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class _Run:
    """A run whose folder this process alone writes: what stays the same from step to step, and its state."""

    config: TrainConfig
    inputs: Inputs
    out: Path
    state: State
    metrics: Metrics
    monitoring: Monitoring


@own_modes()
def train(
    config: TrainConfig,
    tokens: Tokens,
    out: Path | str,
    sources: Sources = NO_SOURCES,
    monitoring: Monitoring = UNMONITORED,
    device: str = "cpu",
    ranks: Ranks = SINGLE,
) -> TrainResult:
    """Train a model into the folder `out`, or resume or return what is there.

    `ranks` are the processes that train together; each calls this, and has a device of its own in place of `device`.

    Raises UserError for a folder of another run, tokens of another vocabulary or too few of them, a missing device, or
    a loss that is not finite. Raises Interrupted, after saving, on SIGINT and SIGTERM.
    """
    out, objective = Path(out), sources.objective
    hold_freed_memory()
    with ranks.together():
        check_device(device if ranks.mode == "single" else ranks.device)
        config.check_ranks(ranks.world_size)
        check_compute(config, device)
        check_sinks(monitoring.track)
        inputs = Inputs.open(config, tokens, sources.start, sources.teacher)
        artifact.refuse_foreign(out)
    if ranks.any(artifact.is_finished(out)):
        with ranks.together():
            return _finished(config, inputs, out, objective)
    state = new_state(config, inputs.start, inputs.teacher, ranks, objective)
    with _sole_writer(out, ranks), stop_on_signal(patient=ranks.world_size > 1) as stop:
        if ranks.any(artifact.is_finished(out)):  # by another process, before it released the folder
            with ranks.together():
                return _finished(config, inputs, out, objective)
        seconds = _enter(config, inputs, out, state, objective)
        if ranks.mode == "single":
            state.to(torch.device(device))
        with _sinks(monitoring.track, config, out, state) as sinks:
            metrics = Metrics(out / artifact.METRICS, state.step, sinks) if ranks.first else Muted()
            run = _Run(config, inputs, out, state, metrics, monitoring)
            try:
                seconds = _advance(run, seconds, stop)
            except NotFinite as error:
                raise NotFinite(f"{str(error).removesuffix('.')} ({_kept(out / CHECKPOINT)}).") from None
            return _finish(run, seconds)


def check_device(device: str) -> None:
    """Raise UserError when there is no device of this name to compute on."""
    try:
        torch.zeros(1, device=device, dtype=torch.float32).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"There is no device '{device}' to compute on here; leave --device out for the CPU.") from None


def _finished(config: TrainConfig, inputs: Inputs, out: Path, objective: ObjectiveFactory) -> TrainResult:
    opened = artifact.open_artifact(out, "model", remedy=f"delete {out} and train again")
    if opened.config(TrainConfig) != config:
        raise UserError(f"{out} holds a model trained with another config; choose another --out.")
    stored = opened.file(OBJECTIVE) if OBJECTIVE in opened.meta.files else None
    if _identity(stored) != objective.identity():
        raise UserError(f"{out} holds a model trained with another objective; choose another --out.")
    for role in ("start", "teacher"):
        if role in opened.meta.parents and role not in inputs.parents:
            raise UserError(f"{out} holds a model trained with a {role}; give --{role}, or choose another --out.")
    for role, parent in inputs.parents.items():
        artifact.require_parent(opened, role, parent)
    return result_in(opened, str(out))


def _identity(path: Path | None) -> str:
    """The identity of the objective that a file names; without a file, of the default one. Raises UserError."""
    if path is None:
        return LANGUAGE_MODELING.identity()
    try:
        return read_text(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); delete the folder and train again.") from None


@contextmanager
def _sole_writer(out: Path, ranks: Ranks) -> Iterator[None]:
    """Within the block, rank 0 holds the folder. Raises UserError, on all ranks, when another process does."""
    with ExitStack() as stack:
        with ranks.together():
            if ranks.first:
                artifact.make_parents(out / "config.json")
                stack.enter_context(artifact.sole_writer(out))
        yield


@contextmanager
def _sinks(track: Sequence[str], config: TrainConfig, out: Path, state: State) -> Iterator[list[Sink]]:
    """Within the block, the sinks of rank 0; other ranks have none. Raises UserError, on all, for one that fails."""
    with ExitStack() as stack:
        with state.ranks.together():
            sinks = stack.enter_context(open_sinks(track if state.ranks.first else (), out, config, state.step))
        yield sinks


def _enter(config: TrainConfig, inputs: Inputs, out: Path, state: State, objective: ObjectiveFactory) -> float:
    """Begin or re-enter an unfinished run; returns the seconds already spent on it."""
    ranks = state.ranks
    with ranks.together():
        if ranks.first and (out / "config.json").exists():
            remedy = "finish that, or choose another --out"
            if TrainConfig.load(out / "config.json") != config:
                raise UserError(f"{out} holds an unfinished run with another config; {remedy}.")
            stored = out / OBJECTIVE if (out / OBJECTIVE).exists() else None
            if (out / CHECKPOINT).exists() and _identity(stored) != objective.identity():
                raise UserError(f"{out} holds an unfinished run with another objective; {remedy}.")
        if ranks.first:
            artifact.write_text(out / "config.json", config.to_json())
            if objective.identity() == LANGUAGE_MODELING.identity():
                (out / OBJECTIVE).unlink(missing_ok=True)  # of a run without a checkpoint, which begins again
            else:
                artifact.write_text(out / OBJECTIVE, objective.identity())
    if not ranks.any((out / CHECKPOINT).exists()):
        return 0.0
    return checkpoint.restore(state, out / CHECKPOINT, inputs.ids)


def _kept(path: Path) -> str:
    step = checkpoint.saved_step(path)
    return f"the checkpoint of step {step} is kept" if step else "there is no checkpoint yet"


def _advance(run: _Run, spent: float, stop: StopRequest) -> float:
    """Train from the state's step to the last one; returns the seconds of the run, with those `spent` before."""
    config, state = run.config, run.state
    began = time.perf_counter() - spent
    device = next(state.model.parameters()).device

    def save() -> None:
        with state.ranks.together(NotFinite):
            check_weights(state.objective, state.step)
        checkpoint.save(state, run.out / CHECKPOINT, run.inputs.ids, time.perf_counter() - began)

    while state.step < config.steps:
        rows = run.inputs.tokens.batch(state.step, config.seed, config.batch_size, config.model.context)
        before = _support_before(state, config)
        done = train_step(state, torch.from_numpy(rows).to(device), config)
        _observe(run, done, before)
        run.monitoring.report(state.step, config.steps, f"loss {done.loss:.3f}, density {done.density:.2%}")
        if state.ranks.any(stop.requested):
            save()
            raise Interrupted
        if state.step % config.checkpoint_every == 0:
            save()
    return time.perf_counter() - began


def _support_before(state: State, config: TrainConfig) -> dict[str, Tensor] | None:
    """The support before the coming step, by parameter; None when no line is written about that step."""
    step = state.step + 1
    if step % config.log_every and step != config.steps:
        return None
    with state.objective.materialized(state.step) as model:
        return support(model)


def _observe(run: _Run, done: StepReport, before: dict[str, Tensor] | None) -> None:
    """Write what is due after the step just done: its own line, a measurement of the model, the watchers' values."""
    config, state, step = run.config, run.state, run.state.step
    measures = step % config.validate_every == 0 and step < config.steps
    due = [watcher for watcher in run.monitoring.watchers if watcher.due(step)]
    if before is None and not measures and not due:
        return
    with state.objective.materialized(step) as model:
        if before is not None:
            of_step = {name: value for name, value in asdict(done).items() if name != "parts"}
            changed = turnover(before, model)
            run.metrics.add(step, nonzeros=count_nonzeros(model), turnover=changed, **of_step, **done.parts)
        whole = gathered(model, state.ranks.first) if measures or due else None
        if whole is None:
            return
        if measures:
            run.metrics.add(step, **asdict(measure(whole, run.inputs.tokens, config)))
        for watcher in due:
            run.metrics.add(step, **watcher(step, whole))


def _finish(run: _Run, seconds: float) -> TrainResult:
    """Measure the final model and make the folder a finished artefact."""
    config, state, tokens = run.config, run.state, run.inputs.tokens
    state.objective.sparsifier.materialize(state.model, state.step)
    model = gathered(state.model, state.ranks.first)
    if model is None:
        state.ranks.wait()
        return read_result(run.out)
    measured = measure(model, tokens, config)
    run.metrics.add_once(config.steps, **asdict(measured))
    result = result_of(model, config, tokens, measured.val_losses, config.steps, seconds)
    also = [artifact.METRICS, *([OBJECTIVE] if (run.out / OBJECTIVE).exists() else [])]
    trained = state.objective.own_state()
    if trained:
        write_tensors(run.out / OBJECTIVE_STATE, trained)
        also.append(OBJECTIVE_STATE)
    write_model(run.out, model, config, tokens, run.inputs.parents, result, also)
    checkpoint.remove(run.out / CHECKPOINT)
    state.ranks.wait()
    return replace(result, out=str(run.out))

"""The plan of a run: sizes, memory against the capacity of a rank, and time as the sum over the kernels of a step."""

from collections import Counter
from dataclasses import asdict, dataclass, replace

from thinwire.errors import UserError
from thinwire.train.config import Parallel, TrainConfig
from thinwire.train.density import check_floor_is_kept
from thinwire.train.plan import work
from thinwire.train.plan.inventory import GroupSize, check_floor, group_sizes
from thinwire.train.plan.memory import Memory, memory, saved_by_recomputing
from thinwire.train.plan.work import Load, Part, Precision
from thinwire.train.rates import Device

VALIDATED_PARTS = 2
"""Corpus parts that a validation loss is assumed to be measured on: those of the default corpus."""
MANY = 2**20
"""A number of ranks that stands for any number."""
PART_NAMES = {"copies": "matrices in bf16, which every rank holds whole,"}


@dataclass(frozen=True)
class Plan:
    """What a run needs. Bytes and seconds are those of one rank; all ranks do the same at the same time."""

    device: str
    measured: bool
    """Whether the device's rates were measured, or assumed from published peaks."""
    source: str
    """Where the rates are from."""
    precision: Precision
    ranks: int
    parallel: Parallel
    parameters: int
    sparse_entries: int
    """Entries of the parameters that training may make sparse."""
    nonzeros: int
    """How many of them are nonzero after the last step."""
    groups: tuple[GroupSize, ...]
    memory: Memory
    capacity: int
    """Bytes of memory that a rank can fill."""
    recompute_saves: int
    """Bytes of activations that `recompute` would save, or saves if it is on."""
    advice: str | None
    """What to change if a rank's memory is too small; None if it fits."""
    flops_per_token: float
    """Forward and backward, attention included."""
    flops_per_step: float
    abstopk_entries: int
    """Entries that AbsTopK selects from in the forward pass of a step, on all ranks together."""
    projection_entries: int
    """Entries that the projection selects weights from after a step, on one rank."""
    all_reduce_bytes: int
    """Bytes that a rank sends in a step."""
    seconds: dict[Part, float]
    """Of a step, by kind of work; communication is not overlapped with computation."""
    step_seconds: float
    tokens_per_second: float
    """Of all ranks together, while training."""
    hours: float
    """Of all steps, and of the validation losses between them."""
    notes: tuple[str, ...]
    """What the estimates leave out or assume."""

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.capacity


def plan(config: TrainConfig, name: str, device: Device, ranks: int = 1, parallel: Parallel = "ddp") -> Plan:
    """The plan of a run on `ranks` devices of one kind.

    Raises UserError for a run that training refuses too, and for a kernel without a rate.
    """
    _check(config, ranks, parallel)
    precision: Precision = "bf16" if config.precision == "bf16" else "fp32"
    if config.precision == "auto" and device.native_bf16:
        precision = "bf16"
    load = Load.of(config, precision, ranks, parallel)
    calls = work.calls(load)
    seconds = kernel_seconds(calls, device)
    step = sum(seconds.values())
    tokens = config.batch_size * config.model.context
    forward = sum(kernel_seconds([call for call in calls if call.forward], device).values())
    groups = group_sizes(config)
    sparse = [group for group in groups if group.group not in ("bigram table", "other dense")]
    needed = memory(load, device.kind, device.runtime_bytes)
    return Plan(
        device=name,
        measured=device.measured,
        source=device.source,
        precision=precision,
        ranks=ranks,
        parallel=parallel,
        parameters=sum(group.entries for group in groups),
        sparse_entries=sum(group.entries for group in sparse),
        nonzeros=sum(group.nonzeros for group in sparse),
        groups=groups,
        memory=needed,
        capacity=device.memory_bytes,
        recompute_saves=saved_by_recomputing(load, device.kind),
        advice=advice(load, device) if needed.total > device.memory_bytes else None,
        flops_per_token=work.step_flops(load) / tokens,
        flops_per_step=work.step_flops(load),
        abstopk_entries=work.selected_entries(load) * ranks,
        projection_entries=sum(entries for _, entries in work.projected(load)),
        all_reduce_bytes=work.sent_bytes(load) if ranks > 1 else 0,
        seconds=seconds,
        step_seconds=step,
        tokens_per_second=tokens / step,
        hours=(config.steps * step + _validation_seconds(config, forward / (tokens / ranks))) / 3600,
        notes=_notes(config, parallel, device),
    )


def _check(config: TrainConfig, ranks: int, parallel: Parallel) -> None:
    if ranks < 1:
        raise UserError(f"A run needs at least one rank, not {ranks}; give --ranks 1 or more.")
    config.check_ranks(ranks)
    if parallel == "fsdp" and ranks == 1:
        raise UserError("fsdp spreads a model over several ranks; give --ranks 2 or more, or leave it out.")
    check_floor_is_kept(config)
    check_floor(config)


def kernel_seconds(calls: list[work.Call], device: Device) -> dict[Part, float]:
    """Time of each kind of work at the device's rates."""
    times = Counter[tuple[Part, str, tuple[int, ...]]]()
    for call in calls:
        times[call.part, call.kernel, call.size] += call.times
    seconds: dict[Part, float] = {}
    for (part, kernel, size), count in times.items():
        seconds[part] = seconds.get(part, 0.0) + count * device.seconds(kernel, size)
    return seconds


def _validation_seconds(config: TrainConfig, forward_seconds_a_token: float) -> float:
    """Time of the forward passes of all validation losses; one rank computes them while the others wait."""
    losses = -(-config.steps // config.validate_every)
    return losses * VALIDATED_PARTS * config.validation_tokens * forward_seconds_a_token


def _notes(config: TrainConfig, parallel: Parallel, device: Device) -> tuple[str, ...]:
    notes = [] if device.measured else [f"Times are assumed, not measured: {device.source}"]
    if config.sparsity not in work.PROJECTING and config.density < 1:
        notes.append(f"What {config.sparsity} adds to memory and time is not counted.")
    if config.compute == "sparse":
        notes.append("Every step is counted as an exact one; after the anneal sparse compute takes most in less time.")
    if parallel == "fsdp":
        notes.append("Rank 0 gathers all weights in one piece when it measures the model; that is not counted.")
    return tuple(notes)


def advice(load: Load, device: Device) -> str:
    """What to change so that a run fits: every single change that suffices, else all of them, else more devices."""
    config = load.config
    changes: dict[str, Load] = {}
    if not config.recompute:
        changes["--recompute"] = replace(load, config=config.replace(recompute=True))
    if load.parallel == "ddp" and load.ranks > 1:
        changes["--parallel fsdp"] = replace(load, parallel="fsdp")
    smaller = _largest_batch(load, device)
    changes[f"--batch-size {smaller.config.batch_size}"] = smaller
    found = [change for change, changed in changes.items() if _fits(changed, device)]
    if found:
        return f"{' or '.join(found)} makes it fit"
    parallel = "fsdp" if load.ranks > 1 else "ddp"
    least = _largest_batch(replace(load, config=config.replace(recompute=True), parallel=parallel), device)
    if _fits(least, device):
        fsdp = " --parallel fsdp" if load.ranks > 1 else ""
        return f"--recompute{fsdp} --batch-size {least.config.batch_size} together make it fit"
    return _more_ranks(least, device)


def _largest_batch(load: Load, device: Device) -> Load:
    """The load with as many sequences per rank as fit, at most as many as it has; with one if none fit."""

    def with_sequences(sequences: int) -> Load:
        return replace(load, config=load.config.replace(batch_size=sequences * load.ranks))

    low, high = 1, load.sequences
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _fits(with_sequences(middle), device) else (low, middle - 1)
    return with_sequences(low)


def _more_ranks(least: Load, device: Device) -> str:
    """The number of ranks that fsdp needs at one sequence each, or what takes too much memory at any number."""

    def on(ranks: int) -> Load:
        return replace(least, config=least.config.replace(batch_size=ranks), ranks=ranks, parallel="fsdp")

    ranks = 2
    while ranks < MANY:
        if ranks > least.ranks and _fits(on(ranks), device):
            return f"it needs about {ranks} ranks: --ranks {ranks} --parallel fsdp --recompute --batch-size {ranks}"
        ranks *= 2
    needed = asdict(memory(on(MANY), device.kind, 0))
    part = max((part for part in needed if part != "patterns"), key=needed.__getitem__)
    obstacle = f"{PART_NAMES.get(part, part)} take {needed[part] / 1e9:,.0f} GB with one sequence on each of many ranks"
    return f"{obstacle}; choose a smaller model, a shorter context or larger devices"


def _fits(load: Load, device: Device) -> bool:
    return memory(load, device.kind, device.runtime_bytes).total <= device.memory_bytes

"""thinwire plan: an estimate of memory and time before a training run starts."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from thinwire.cli.common import emit, number, parse
from thinwire.errors import UserError
from thinwire.train.config import Parallel, TrainConfig
from thinwire.train.plan import Plan, plan
from thinwire.train.presets import PRESETS
from thinwire.train.rates import find_device

Row = tuple[str, str, str]


@dataclass(frozen=True)
class Args:
    """Estimate a training run before it starts: sizes, memory of each rank, FLOPs, speed, hours.

    CONFIG comes first and sets the defaults of the options below, which override it. Times are sums over the kernels of
    a step, at rates that `thinwire doctor --measure` measured, or at assumed fractions of published peaks.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")]
    """A preset, such as tiny or paper, or a JSON file of a training config."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    ranks: int = 1
    """Devices that train together; each computes its share of a batch."""
    device: str | None = None
    """Name of the device of each rank; unset is this machine."""
    parallel: Parallel = "ddp"
    """Whether every rank holds all weights, or each holds its rows of every matrix."""
    rates: Path | None = None
    """A file of `thinwire doctor --measure`, for devices besides the built-in ones."""
    json: bool = False
    """End stdout with one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "plan", Args(tyro.MISSING, _default(argv)))
    name, device = find_device(args.device, args.rates)
    planned = plan(args.config, name, device, args.ranks, args.parallel)
    totals = {"memory": asdict(planned.memory) | {"total": planned.memory.total}, "fits": planned.fits}
    emit({"config": args.source} | asdict(planned) | totals, args.json, table_of(planned, args.source, args.config))


def _default(argv: Sequence[str]) -> TrainConfig:
    """The config that the first argument names."""
    word = os.path.expanduser(argv[0]) if argv else ""
    if word in ("-h", "--help"):
        return PRESETS["tiny"]()
    if not word or word.startswith("-"):
        raise UserError("Name a preset or a JSON config first, as in thinwire plan paper --ranks 8 --device h200.")
    if word in PRESETS:
        return PRESETS[word]()
    if not Path(word).is_file():
        raise UserError(f"'{word}' is neither a file nor a preset; the presets are {', '.join(PRESETS)}.")
    return TrainConfig.load(Path(word))


def table_of(planned: Plan, source: str, config: TrainConfig) -> Table:
    """The plan as a table, at most 80 columns wide."""
    ranks = f"{planned.ranks} ranks, {planned.parallel}" if planned.ranks > 1 else "1 rank"
    title = f"{Path(source).name} on {planned.device}, {ranks}, {planned.precision}"
    table = Table(title=title, show_header=False, box=None, pad_edge=False, title_justify="left", width=79)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for section in (_sizes(planned), _memory(planned), _work(planned), _times(planned, config)):
        for row in section:
            table.add_row(*row)
        table.add_row()
    table.caption = "\n".join(planned.notes)
    table.caption_justify = "left"
    return table


def _sizes(planned: Plan) -> Iterator[Row]:
    yield "parameters", number(planned.parameters), ""
    yield "  can be sparse", number(planned.sparse_entries), _share(planned.nonzeros, planned.sparse_entries)
    for group in planned.groups:
        dense = group.entries == group.nonzeros
        yield f"  {group.group}", number(group.entries), "dense" if dense else _share(group.nonzeros, group.entries)


def _share(nonzeros: int, entries: int) -> str:
    return f"{number(nonzeros)} nonzero ({nonzeros / entries:.2%})"


def _memory(planned: Plan) -> Iterator[Row]:
    memory = planned.memory
    verdict = "fits" if planned.fits else f"DOES NOT FIT; {planned.advice}"
    yield "memory of a rank", _bytes(memory.total), f"of {_bytes(planned.capacity)}: {verdict}"
    yield "  weights", _bytes(memory.weights), ""
    yield "  gradients", _bytes(memory.gradients), ""
    yield "  Adam moments", _bytes(memory.moments), ""
    if memory.copies:
        gathered = ", gathered" if planned.parallel == "fsdp" else ""
        yield "  copies", _bytes(memory.copies), f"matrices in bf16{gathered}"
    patterns = f"attention patterns {_bytes(memory.patterns)}; " if memory.patterns else ""
    yield "  activations", _bytes(memory.activations), f"{patterns}--recompute saves {_bytes(planned.recompute_saves)}"
    yield "  logits", _bytes(memory.logits), ""
    if memory.overhead:
        yield "  overhead", _bytes(memory.overhead), "temporary buffers, freed blocks"
    yield "  process", _bytes(memory.runtime), ""


def _work(planned: Plan) -> Iterator[Row]:
    yield "FLOPs a token", _short(planned.flops_per_token), "forward and backward, attention included"
    yield "FLOPs a step", _short(planned.flops_per_step), ""
    yield "AbsTopK a step", _short(planned.abstopk_entries), "entries, forward"
    yield "projection a step", _short(planned.projection_entries), "entries of a rank"
    yield "all-reduce a step", _bytes(planned.all_reduce_bytes), "sent by a rank"


def _times(planned: Plan, config: TrainConfig) -> Iterator[Row]:
    rates = "measured rates" if planned.measured else "assumed rates"
    yield "time of a step", _seconds(planned.step_seconds), rates
    for part, seconds in sorted(planned.seconds.items(), key=lambda item: -item[1]):
        yield f"  {part}", _seconds(seconds), f"{seconds / planned.step_seconds:.0%}"
    yield "tokens per second", number(float(planned.tokens_per_second)), "" if planned.measured else "assumed"
    hours = number(planned.hours) if planned.hours < 1000 else f"{planned.hours:,.0f}"
    yield "hours", hours, f"for {config.steps:,} steps, with validation"


def _bytes(count: float) -> str:
    return f"{_short(count)}B"


def _short(value: float) -> str:
    """Three digits and a decimal prefix."""
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if value < 999.5:
            return f"{value:.3g} {prefix}"
        value /= 1000
    return f"{value:.3g} Z"


def _seconds(seconds: float) -> str:
    return (
        f"{1e3 * seconds:.3g} ms"
        if seconds < 0.9995
        else f"{seconds:,.3g} s"
        if seconds < 999.5
        else f"{seconds:,.0f} s"
    )

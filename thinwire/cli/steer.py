"""thinwire steer: move a dense model's reads through the nodes of a sparse model's circuit."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table

from thinwire import artifact
from thinwire.bridge.steer_config import SteerConfig
from thinwire.cli.common import chosen_config, emit, parse, progress
from thinwire.cli.lines import wrapped
from thinwire.errors import UserError
from thinwire.view.formats import suffix_of

if TYPE_CHECKING:
    from thinwire.bridge.curves import Curve, Effect, Measured
    from thinwire.bridge.steer_report import SteerReport

LONGEST = 7
"""Characters of an answer that a table shows."""
PARTS = {"all": "all", "h_0": "h_0", "later": "h_1 on"}


@dataclass(frozen=True)
class Args:
    """Steer a dense model through a bridge: move its reads as if it had read the other prompt of a pair, by what that
    changes in the sparse model's nodes. Measured on held-out pairs, beside controls of the same size.

    --config FILE takes the options below from a JSON file; options on the command line win.
    """

    bridge: tyro.conf.Positional[Path]
    """Bridge artefact, such as runs/bridge/maps."""
    circuit: tyro.conf.Positional[Path]
    """Circuit artefact of the bridge's sparse model."""
    config: Annotated[SteerConfig, tyro.conf.arg(name="")]
    dense: Path | None = None
    """Dense model of the bridge; unset looks among the shipped models and beside the bridge."""
    sparse: Path | None = None
    """Sparse model of the bridge, likewise; that of a joint bridge is OUT/runs/joint."""
    task_file: Path | None = None
    """JSON Lines file of pairs: your own task, named by the file's stem."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """JSON file for everything that was measured."""
    plot: Path | None = None
    """SVG, PNG or PDF file for a plot of the answer's probability over strength."""
    json: bool = False
    """End stdout with one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    default, rest = chosen_config(SteerConfig, argv, SteerConfig())
    args = parse(Args, rest, "steer", Args(tyro.MISSING, tyro.MISSING, default))
    check_files(args.out, args.plot, args.task_file)
    from thinwire.circuit import Circuit
    from thinwire.stages import Bridged, steer_stage
    from thinwire.tasks import task_from_file

    began = time.perf_counter()
    own = None if args.task_file is None else task_from_file(args.task_file)
    circuit = Circuit.load(args.circuit)
    bridged = Bridged.open(args.bridge, args.dense, args.sparse)
    with progress(f"steer {circuit.task}") as report:
        found = steer_stage(bridged, circuit, args.config, report, own)
    if args.out is not None:
        artifact.make_parents(args.out)
        artifact.write_text(args.out, found.to_json() + "\n")
    if args.plot is not None:
        from thinwire.view.steer_plot import draw_steering

        draw_steering(found, args.plot)
    places = {"out": args.out and str(args.out), "plot": args.plot and str(args.plot)}
    values = {**places, **summary(found), **asdict(found), "seconds": time.perf_counter() - began}
    emit(values, args.json, curve_table(found))
    if not args.json:
        emit({}, False, part_table(found))
        emit({}, False, wrapped(remarks(found)))


def check_files(out: Path | None, plot: Path | None = None, read: Path | None = None) -> None:
    """Raise UserError unless the JSON file and the plot can be written, neither in place of a file that is read."""
    if out is not None:
        suffix_of(out, (".json",))
        artifact.check_file_place(out, "a JSON file", read=[read])
    if plot is not None:
        suffix_of(plot)
        artifact.check_file_place(plot, "a picture", "--plot")
    if out is not None and plot is not None and out.absolute() == plot.absolute():
        raise UserError(f"{out} is given for --out and --plot; give two files.")


def summary(found: "SteerReport") -> dict[str, object]:
    """The result in flat values, at the reference strength with all reads."""
    one, two = found.reference.sides
    return {
        "strength": found.reference.strength,
        "ratio": found.reference.smaller,
        "ratios": [one.ratio.value, two.ratio.value],
        "random_nodes_p90": found.random_high,
        "flips": [one.flips.value, two.flips.value],
    }


def names(found: "SteerReport") -> tuple[str, str]:
    """What the sides are steered towards, short enough for a table."""
    first, second = (repr(answer) for answer in found.answers)
    fits = all(len(name) <= LONGEST for name in (first, second)) and all(found.answers)
    return (first, second) if fits else ("2nd", "1st")


def _grid(title: str) -> Table:
    slim = {"box": SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}  # fits into 80 columns
    return Table(title=title, title_justify="left", caption_justify="left", **slim)


def curve_table(found: "SteerReport") -> Table:
    """All reads at every strength, a row for each side."""
    curve = found.curves[0]
    grid = _grid(f"{found.task}: {curve.reads} reads at dose {curve.dose}, {found.n} {said(found.split)} pairs")
    grid.add_column("strength", no_wrap=True)
    grid.add_column("towards", no_wrap=True)
    for name in ("P", "log-odds, nats", "ratio of P", "flips", "random"):
        grid.add_column(name, justify="right", no_wrap=True)
    for step in curve.steps:
        for at, (name, side) in enumerate(zip(names(found), step.sides, strict=True)):
            random = next((_high(control.ratios[at]) for control in step.controls), "")
            cells = f"{side.probability:.3f}", _ends(side.log_odds, nats), _ends(side.ratio, short)
            strength = "" if at else f"{step.strength:g}"
            grid.add_row(strength, name, *cells, f"{side.flips.value:.0%}", random)
    return grid


def part_table(found: "SteerReport") -> Table:
    """Every dose and part at the reference strength, and every point alone, beside the dense model's own difference."""
    at = f"{found.reference.strength:g}"
    grid = _grid(f"Ratio of P at strength {at}; for the reads at one point alone at strength 1")
    for name in ("dose", "reads"):
        grid.add_column(name, no_wrap=True)
    first, second = names(found)
    for name in ("n", first, second, "flips", "random", "own"):
        grid.add_column(name, justify="right", no_wrap=True)
    for curve in found.curves:
        grid.add_row(*_part(curve, found.reference.strength))
    for one in found.points:
        own = " ".join(short(side.ratio.value) for side in one.own)
        cells = (short(side.ratio.value) for side in one.sides)
        label = f"only h_{one.point}"
        grid.add_row(found.curves[0].dose, label, f"{one.reads}", *cells, _flips(one.sides), "", own)
    return grid


def _part(curve: "Curve", strength: float) -> Iterator[str]:
    step = curve.at(strength)
    yield from (curve.dose, PARTS[curve.part], f"{curve.reads}")
    yield from (short(side.ratio.value) for side in step.sides)
    yield _flips(step.sides)
    yield " ".join(_high(ratios) for ratios in step.controls[0].ratios)
    yield ""


def _flips(sides: "Sequence[Effect]") -> str:
    return " ".join(f"{side.flips.value:.0%}" for side in sides)


def _high(ratios: Sequence[float]) -> str:
    from thinwire.bridge.curves import quantile

    return short(quantile(ratios))


def short(value: float) -> str:
    """A ratio in at most six characters."""
    if not 1e-3 <= value < 1e6:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e") if value else "0"
    return f"{value:.2g}" if value < 1 else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def nats(value: float) -> str:
    """A shift of log-odds with one decimal, or none from 100 on."""
    return f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def said(split: str) -> str:
    """The name of a split in a sentence."""
    return "held-out" if split == "heldout" else split


def _ends(measured: "Measured", form: Callable[[float], str]) -> str:
    ends = measured.interval
    return f"{form(measured.value)} ({form(ends.low)}, {form(ends.high)})"


def remarks(found: "SteerReport") -> Iterator[str]:
    """How to read the tables, and what the controls reach."""
    highs = ", ".join(f"{control.kind} {control.high:.3g}" for control in found.reference.controls)
    yield (
        "P: mean probability of the other prompt's answer. Log-odds: its mean shift against the prompt's own answer. "
        "Ratio: geometric mean of how many times likelier it gets. Flips: it becomes the likelier of the two. "
        "In brackets 95 % intervals over pairs."
    )
    yield (
        f"Random: 90th percentile of {found.draws} draws of random nodes with moves of the same size. All controls at "
        f"strength {found.reference.strength:g}, the larger side: {highs}."
    )
    yield "h_0 alone substitutes tokens. Own: the dense model's own difference, in all channels of the point."
    chosen = {"circuit": "those of the circuit", "nodes": "those of the circuit's nodes alone"}
    yield f"Reads: {chosen.get(found.choice, 'found by gradients on training pairs')}."

"""The share of a model's log-odds that circuits carry, against their size, by matplotlib."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from thinwire.artifact import atomic, make_parents
from thinwire.errors import UserError
from thinwire.verify.thresholds import SHARE
from thinwire.view.figure import BUS, DOTS_PER_INCH, INK, SOFT, UNDATED
from thinwire.view.formats import suffix_of
from thinwire.view.size_plot import COLOURS, INCHES, LOOK


@dataclass(frozen=True)
class SharePoint:
    """One circuit."""

    circuits: str
    """The set it belongs to, which has one colour."""
    task: str
    edges: int
    share: float
    """Of the whole model's mean log-odds, without calibration."""
    low: float
    high: float


def draw_shares(points: Sequence[SharePoint], path: Path) -> None:
    """Draw a point a circuit, with its interval, to an SVG, PNG or PDF file. The same points give the same SVG.

    Circuits without edges are left out. Raises UserError for other kinds of file, and where no point is left.
    """
    kind, shown = suffix_of(path)[1:], [point for point in points if point.edges]
    if not shown:
        raise UserError("No circuit has edges, so there is nothing to draw; prune other tasks.")
    make_parents(path)
    with atomic(path) as temporary, rc_context(LOOK):
        figure = Figure(figsize=INCHES, layout="constrained")
        FigureCanvasAgg(figure)
        _fill(figure.add_subplot(), shown)
        figure.savefig(temporary, format=kind, dpi=DOTS_PER_INCH, metadata=UNDATED.get(kind), facecolor="white")


def _fill(axes: Axes, points: Sequence[SharePoint]) -> None:
    for index, name in enumerate(dict.fromkeys(point.circuits for point in points)):
        own, colour = [point for point in points if point.circuits == name], COLOURS[index % len(COLOURS)]
        edges, shares = [point.edges for point in own], [point.share for point in own]
        spread = [[p.share - p.low for p in own], [p.high - p.share for p in own]]
        axes.errorbar(edges, shares, yerr=spread, fmt="o", markersize=5, color=colour, linewidth=1, label=name)
        for point in own:
            axes.annotate(
                point.task,
                (point.edges, point.share),
                xytext=(5, 3),
                textcoords="offset points",
                fontsize=6,
                color=SOFT,
            )
    axes.axhline(SHARE.limit, color=SOFT, linestyle="--", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("edges of the circuit", color=INK)
    axes.set_ylabel("share of the model's log-odds, uncalibrated", color=INK)
    axes.set_title(f"What circuits carry by themselves ({SHARE} passes)", loc="left", color=INK)
    axes.grid(color=BUS, alpha=0.3, which="both", linewidth=0.6)
    axes.tick_params(colors=SOFT, which="both")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False)

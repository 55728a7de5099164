"""The probability of the other prompt's answer over the strength of steering (Gao et al. 2025, Fig. 9)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from thinwire.artifact import atomic, make_parents
from thinwire.bridge.curves import Step
from thinwire.bridge.steer_config import NODES
from thinwire.bridge.steer_report import SteerReport
from thinwire.view.figure import BUS, DOTS_PER_INCH, INK, NEGATIVE, POSITIVE, SOFT, UNDATED
from thinwire.view.formats import suffix_of
from thinwire.view.size_plot import LOOK

INCHES = (7.2, 3.4)
BAND = (0.1, 0.9)
"""Quantiles over draws of random nodes that the band reaches from and to."""

SPLITS = {"heldout": "held-out"}


@dataclass(frozen=True)
class Line:
    """One side's probability over strengths."""

    strengths: list[float]
    probability: list[float]
    """With the reads that were chosen."""
    random_strengths: list[float]
    """Strengths at which random nodes were drawn, and 0 where it was measured."""
    low: list[float]
    """Quantiles over draws of random nodes."""
    high: list[float]


def line_of(steps: Sequence[Step], side: int) -> Line:
    """The line of a side from the steps of a curve."""
    drawn: list[tuple[float, list[float]]] = []
    for step in steps:
        probabilities = [control.probabilities[side] for control in step.controls if control.kind == NODES]
        if step.strength == 0:
            probabilities = [[step.sides[side].probability]]
        drawn += [(step.strength, values) for values in probabilities]
    ends = [np.quantile(values, BAND).tolist() for _, values in drawn]
    return Line(
        strengths=[step.strength for step in steps],
        probability=[step.sides[side].probability for step in steps],
        random_strengths=[strength for strength, _ in drawn],
        low=[low for low, _ in ends],
        high=[high for _, high in ends],
    )


def side_names(report: SteerReport) -> tuple[str, str]:
    """What the two sides are steered towards, in a word or two."""
    first, second = (repr(answer) if answer else "" for answer in report.answers)
    return first or "second prompt's answer", second or "first prompt's answer"


def draw_steering(report: SteerReport, path: Path) -> None:
    """Draw both sides of the first curve to an SVG, PNG or PDF file; the same report gives the same SVG.

    Raises UserError for other kinds of file.
    """
    kind = suffix_of(path)[1:]
    make_parents(path)
    with atomic(path) as temporary, matplotlib.rc_context(LOOK):
        figure = Figure(figsize=INCHES, layout="constrained")
        FigureCanvasAgg(figure)
        both = figure.subplots(1, 2, sharey=True)
        for side, (axes, name) in enumerate(zip(both, side_names(report), strict=True)):
            _fill(axes, line_of(report.curves[0].steps, side), name)
        both[0].set_ylabel("probability of that answer, mean", color=INK)
        both[0].legend(frameon=False, loc="upper left")
        title = (
            f"{report.task}, {report.n} {SPLITS.get(report.split, report.split)} pairs, {report.curves[0].reads} reads"
        )
        figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=10)
        figure.savefig(temporary, format=kind, dpi=DOTS_PER_INCH, metadata=UNDATED.get(kind), facecolor="white")


def _fill(axes: Axes, line: Line, name: str) -> None:
    style: dict[str, Any] = {"linewidth": 1.8, "marker": "o", "markersize": 4, "zorder": 3}
    axes.plot(line.strengths, line.probability, color=POSITIVE, label="chosen reads", **style)
    axes.fill_between(line.random_strengths, line.low, line.high, color=NEGATIVE, alpha=0.25, linewidth=0)
    middle = [(low + high) / 2 for low, high in zip(line.low, line.high, strict=True)]
    axes.plot(line.random_strengths, middle, color=NEGATIVE, linewidth=1.2, label="random nodes, 10 to 90 %")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("strength", color=INK)
    axes.set_title(f"towards {name}".replace("$", "\\$"), loc="left", color=INK)
    axes.grid(color=BUS, alpha=0.3, linewidth=0.6)
    axes.tick_params(colors=SOFT)
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(False)

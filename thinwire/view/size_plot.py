"""The size of circuits against the loss that they reach, a line a model (Gao et al. 2025, Fig. 2), by matplotlib."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from thinwire.artifact import atomic, make_parents
from thinwire.circuit import PruneScores
from thinwire.errors import UserError
from thinwire.prune.summary import Interval, mean_edges
from thinwire.view.figure import BUS, DOTS_PER_INCH, INK, NEGATIVE, POSITIVE, SOFT, UNDATED
from thinwire.view.formats import suffix_of

COLOURS = (POSITIVE, NEGATIVE, INK, SOFT)
INCHES = (6.4, 4.4)
LOOK: Any = {"svg.hashsalt": "thinwire", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}


@dataclass(frozen=True)
class SizeRecord:
    """The circuit of one task in one model at one target loss."""

    model: str
    task: str
    target: float
    """Task loss on validation pairs that the circuit must meet, nats."""
    edges: int | None
    """None where the target was missed."""


def records_of(scores: PruneScores | None, model: str, task: str) -> list[SizeRecord]:
    """The records of one model and task in the scores' ladder; none where there is no circuit."""
    return [SizeRecord(model, task, rung.target, rung.edges) for rung in (scores.ladder if scores else ())]


@dataclass(frozen=True)
class SizePoint:
    """One model at one target: the geometric mean over tasks."""

    target: float
    edges: Interval


def lines(records: Sequence[SizeRecord]) -> dict[str, list[SizePoint]]:
    """The line of each model over the tasks that all models have, models in the order they occur.

    Tasks that need no edges, in any model at any target, are left out. A target that some of these circuits miss is
    left out for every model, so that all points are of the same tasks.
    """
    models = list(dict.fromkeys(record.model for record in records))
    tasks = [{record.task for record in records if record.model == model} for model in models]
    shared = set.intersection(*tasks) if tasks else set()
    shared -= {record.task for record in records if record.edges == 0}
    sizes: dict[tuple[str, float], dict[str, int | None]] = {}
    for record in records:
        if record.task in shared:
            sizes.setdefault((record.model, record.target), {})[record.task] = record.edges
    found: dict[str, list[SizePoint]] = {model: [] for model in models}
    for target in sorted({record.target for record in records}):
        means = [mean_edges(sizes.get((model, target), {})) for model in models]
        whole = [mean for mean in means if mean is not None and mean.tasks == len(shared)]
        if shared and len(whole) == len(models):
            for model, mean in zip(models, whole, strict=True):
                found[model].append(SizePoint(target, mean))
    return found


def draw_sizes(records: Sequence[SizeRecord], path: Path) -> None:
    """Draw the lines, with the interval over tasks as a band, to an SVG, PNG or PDF file.

    The same records give the same SVG.

    Raises UserError for other kinds of file, and when the models share no task at any target.
    """
    kind = suffix_of(path)[1:]
    points = {model: line for model, line in lines(records).items() if line}
    if not points:
        raise UserError("No task has circuits with edges in every model at a common target; prune the same tasks.")
    make_parents(path)
    with atomic(path) as temporary, matplotlib.rc_context(LOOK):
        figure = Figure(figsize=INCHES, layout="constrained")
        FigureCanvasAgg(figure)
        _fill(figure.add_subplot(), points)
        figure.savefig(temporary, format=kind, dpi=DOTS_PER_INCH, metadata=UNDATED.get(kind), facecolor="white")


def _fill(axes: Axes, points: dict[str, list[SizePoint]]) -> None:
    for index, (model, line) in enumerate(points.items()):
        targets = [point.target for point in line]
        colour = COLOURS[index % len(COLOURS)]
        low, high = [point.edges.low for point in line], [point.edges.high for point in line]
        style: dict[str, Any] = {"color": colour, "linewidth": 1.8, "marker": "o", "markersize": 4, "zorder": 3}
        axes.plot([point.edges.value for point in line], targets, label=model, **style)
        axes.fill_betweenx(targets, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlabel("edges of the circuit, geometric mean over tasks", color=INK)
    axes.set_ylabel("task loss, nats", color=INK)
    n_tasks = next(iter(points.values()))[0].edges.tasks
    axes.set_title(f"Size of circuits, {n_tasks} {'task' if n_tasks == 1 else 'tasks'}", loc="left", color=INK)
    axes.grid(color=BUS, alpha=0.3, which="both", linewidth=0.6)
    axes.tick_params(colors=SOFT, which="both")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False)

"""The charts of a run's report: which curves each shows, thinned so that the page of a long run stays small."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from thinwire.display import one_line
from thinwire.sites import KINDS, Shape, Site
from thinwire.train.metrics import Curve

MOST_POINTS = 600
"""Points of a line; a longer one is drawn as the means of buckets, between their extremes."""
MOST_LINES = 9
"""Lines of one chart; of more as many are drawn, evenly spread, first and last included."""
WIDE_RANGE = 30.0
"""Positive values that span a larger factor than this are drawn on a logarithmic axis."""
HUGE = 1e300
"""Larger numbers are left out, as infinity is: sums of them overflow."""
NEURONS = "mlp.post_act"
Form = Literal["number", "percent", "count"]
Axis = Literal["step", "point"]


@one_line
@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    low: tuple[float, ...] = ()
    """Least value of each bucket; empty where every point is one measurement."""
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A chart that a report has where a run wrote the numbers for it."""

    title: str
    curves: str
    """Path of the curves; `*` stands for the part in which they differ, which names the lines."""
    about: str
    """What is drawn, in a phrase."""
    unit: str = ""
    form: Form = "number"
    """How values are written; percent takes fractions."""
    from_zero: bool = False
    ordered: bool = False
    """Whether lines follow one another, as layers do, and take their colours from a scale."""
    axis: Axis = "step"
    """What the steps of the lines are: of training, or residual points."""


@one_line
@dataclass(frozen=True)
class Chart:
    """Lines over steps with one vertical axis."""

    plan: Plan
    lines: tuple[Line, ...]
    logarithmic: bool
    described: str
    """The chart in words, for screen readers."""


PLANS = (
    Plan("Training loss", "loss", "cross-entropy of each batch", "nats per token"),
    Plan("Validation loss", "val_losses/*", "held-out cross-entropy of each corpus part", "nats per token"),
    Plan("Density", "density", "nonzeros that a matrix may have", form="percent"),
    Plan("Learning rate", "learning_rate", "of each update, L0 factor included", from_zero=True),
    Plan("Gradient", "gradient_rms", "root mean square before it is scaled"),
    Plan("Mask turnover", "turnover", "nonzeros that were zero one step before", form="percent"),
    Plan("Dead neurons", "dead neurons/*", "zero on all validation tokens", "of a layer", "percent", True, True),
    Plan("Dead channels", "dead channels/*", "zero on all validation tokens", "of all layers", "percent", True),
    Plan("Unconnected neurons", "unwired neurons/*", "no weight in, or none out", "of a layer", "percent", True, True),
    Plan("Residual kurtosis", "kurtosis/*", "how few channels carry the stream; normal is 3", ordered=True),
    Plan("Task loss", "tasks/*/loss", "on validation pairs; guessing is 0.69", "nats"),
    Plan("Task accuracy", "tasks/*/accuracy", "on validation pairs", form="percent"),
    Plan("Circuit nodes", "forming/*/nodes", "of the smallest circuit found", form="count", from_zero=True),
    Plan("Circuit edges", "forming/*/edges", "weights between those nodes", form="count", from_zero=True),
    Plan("Divergence", "divergence", "from the teacher's predictions", "nats per token"),
    Plan(
        "Divergence, dense → sparse",
        "kl_to_sparse/*",
        "of crossings, from the dense model",
        "nats per token",
        ordered=True,
    ),
    Plan(
        "Divergence, sparse → dense",
        "kl_to_dense/*",
        "of crossings, from the dense model",
        "nats per token",
        ordered=True,
    ),
    Plan("Error of the maps", "nmse", "squared, over the variance, of both maps"),
    Plan("Loss of the sparse model", "sparse_loss", "by itself, while it is bridged", "nats per token"),
    Plan("Penalty", "penalty", "added to the loss for sparsity", "nats per token"),
)
"""Every chart, in the order of the page."""


def charts_of(curves: Mapping[str, Curve], shape: Shape) -> list[Chart]:
    """The charts that a run's curves allow."""
    known = {**curves, **_shares(curves, shape)}
    found = [_chart(plan, _matching(known, plan.curves)) for plan in PLANS]
    return [chart for chart in found if chart is not None]


def charts_of_plans(curves: Mapping[str, Curve], chosen: Sequence[str]) -> list[Chart]:
    """The charts of PLANS for these paths of curves that the curves allow."""
    found = [_chart(plan, _matching(curves, plan.curves)) for plan in PLANS if plan.curves in chosen]
    return [chart for chart in found if chart is not None]


def _matching(curves: Mapping[str, Curve], pattern: str) -> dict[str, Curve]:
    """Curves of a path by what stands for its `*`; a path without one gives its own curve."""
    before, star, after = pattern.partition("*")
    if not star:
        return {pattern: curves[pattern]} if pattern in curves else {}
    chosen = [name for name in curves if name.startswith(before) and name.endswith(after)]
    return {name[len(before) : len(name) - len(after)]: curves[name] for name in chosen}


def _shares(curves: Mapping[str, Curve], shape: Shape) -> dict[str, Curve]:
    """Dead and unconnected neurons as shares of a layer; dead channels of the other kinds as shares of all layers."""
    shares = {}
    for what in ("dead", "unwired"):
        for layer in range(shape.n_layers):
            site = Site.of(layer, NEURONS)
            if f"{what}/{site}" in curves:
                shares[f"{what} neurons/layer {layer}"] = _share([curves[f"{what}/{site}"]], site.width(shape))
    for kind in KINDS:
        sites = [Site.of(layer, kind) for layer in range(shape.n_layers)]
        if kind != NEURONS and all(f"dead/{site}" in curves for site in sites):
            each = [curves[f"dead/{site}"] for site in sites]
            shares[f"dead channels/{kind}"] = _share(each, sum(site.width(shape) for site in sites))
    return shares


def _share(curves: Sequence[Curve], whole: int) -> Curve:
    """The sum of the curves over a whole, at the steps that all of them have."""
    each = [dict(zip(curve.steps, curve.values, strict=True)) for curve in curves]
    steps = tuple(step for step in curves[0].steps if all(step in known for known in each))
    return Curve(steps, tuple(sum(known[step] for known in each) / whole for step in steps))


def _chart(plan: Plan, curves: Mapping[str, Curve]) -> Chart | None:
    """A chart of these curves; None where they hold no number."""
    every = [thinned(name, curve) for name, curve in curves.items()]
    lines = spread([line for line in every if line.steps], MOST_LINES)
    if not lines:
        return None
    values = [value for line in lines for value in (*line.values, *line.low, *line.high)]
    wide = min(values) > 0 and max(values) > WIDE_RANGE * min(values)
    tale = [f"{line.name} goes from {line.values[0]:.4g} to {line.values[-1]:.4g}" for line in lines]
    first, last = min(line.steps[0] for line in lines), max(line.steps[-1] for line in lines)
    described = f"{plan.title}, {plan.about}. Between steps {first:,} and {last:,}, {'; '.join(tale)}."
    return Chart(plan, tuple(lines), wide and not plan.from_zero, described)


def thinned(name: str, curve: Curve, most: int = MOST_POINTS) -> Line:
    """A curve as at most `most` points; numbers that are huge or not finite are left out.

    A bucket of several measurements is drawn at its middle step, as its mean between its least and largest value.
    """
    points = [(s, v) for s, v in zip(curve.steps, curve.values, strict=True) if abs(v) < HUGE]
    size = max(1, math.ceil(len(points) / most))
    buckets = [points[start : start + size] for start in range(0, len(points), size)]
    steps = tuple(bucket[len(bucket) // 2][0] for bucket in buckets)
    values = tuple(sum(v for _, v in bucket) / len(bucket) for bucket in buckets)
    if size == 1:
        return Line(name, steps, values)
    low, high = (tuple(extreme(v for _, v in bucket) for bucket in buckets) for extreme in (min, max))
    return Line(name, steps, values, low, high)


def spread(lines: Sequence[Line], most: int) -> list[Line]:
    """At most `most` of the lines, evenly spread, first and last included."""
    if len(lines) <= most:
        return list(lines)
    return [lines[round(index * (len(lines) - 1) / (most - 1))] for index in range(most)]

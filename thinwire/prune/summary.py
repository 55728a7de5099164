"""Sizes of circuits over tasks: geometric means and ratios, with bootstrap intervals (Gao et al. 2025, Fig. 2 and 31).

A size is the number of edges of a task's circuit, None if the target was missed. A circuit without edges says that the
task needs none: the bigram table alone, or the calibration, meets the target. Such a task is in no mean and no ratio,
and is counted apart.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from thinwire.prune.bootstrap import percentile_ends

DRAWS = 10_000
"""Bootstrap samples of the tasks."""

Sizes = Mapping[str, int | None]
"""Edges by task; None where the target was missed."""


@dataclass(frozen=True)
class Interval:
    """A geometric mean over tasks, or a ratio of two, with its bootstrap interval."""

    value: float
    low: float
    high: float
    tasks: int
    """Number of tasks that it is computed over."""
    excluded: int
    """Number of tasks left out because a circuit is missing or missed its target."""
    unneeded: int = 0
    """Number of tasks left out because a circuit without edges meets the target."""


def geometric_mean(sizes: Sequence[float]) -> float:
    """The geometric mean of one or more sizes, none of which is 0."""
    assert sizes, "no sizes"
    assert min(sizes) > 0, "a circuit without edges"
    return math.exp(math.fsum(map(math.log, sizes)) / len(sizes))


def without_edges(*sizes: Sizes) -> list[str]:
    """The tasks for which a circuit without edges meets the target in any of these, sorted."""
    return sorted({task for of in sizes for task, size in of.items() if size == 0})


def mean_edges(sizes: Sizes, seed: int = 0) -> Interval | None:
    """The geometric mean over the tasks whose circuits have edges; None if there are none."""
    known = [math.log(size) for size in sizes.values() if size]
    return _interval(known, len(sizes), len(without_edges(sizes)), seed)


def edge_ratio(above: Sizes, below: Sizes, seed: int = 0) -> Interval | None:
    """The geometric mean of `above` divided by that of `below`, over the tasks that have circuits with edges in both.

    The bootstrap resamples tasks, with both circuits of each. None if no task is in both.
    """
    every = {*above, *below}
    logs = []
    for task in sorted(every):
        one, other = above.get(task), below.get(task)
        if one and other:
            logs.append(math.log(one) - math.log(other))
    return _interval(logs, len(every), len(without_edges(above, below)), seed)


def _interval(logs: Sequence[float], n_tasks: int, unneeded: int, seed: int) -> Interval | None:
    """Percentile interval of the mean of logarithms, in the original unit."""
    if not logs:
        return None
    values = np.array(logs)
    drawn = np.random.default_rng(seed).integers(0, len(values), (DRAWS, len(values)))
    ends = percentile_ends(values, drawn)
    value, excluded = math.fsum(logs) / len(logs), n_tasks - len(logs) - unneeded
    return Interval(math.exp(value), math.exp(ends.low), math.exp(ends.high), len(logs), excluded, unneeded)

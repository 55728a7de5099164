"""Sizes of circuits over tasks: geometric means and ratios, with bootstrap intervals (Gao et al. 2025, Fig. 2 and 31).

A size is the number of edges of a task's circuit, None if the target was missed. A circuit without edges counts as one
edge.
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


def geometric_mean(sizes: Sequence[float]) -> float:
    """The geometric mean of one or more sizes; a size below 1 counts as 1."""
    assert sizes, "no sizes"
    return math.exp(math.fsum(math.log(max(1, size)) for size in sizes) / len(sizes))


def mean_edges(sizes: Sizes, seed: int = 0) -> Interval | None:
    """The geometric mean over tasks; None if every task missed its target."""
    known = [math.log(max(1, size)) for size in sizes.values() if size is not None]
    return _interval(known, len(sizes), seed)


def edge_ratio(above: Sizes, below: Sizes, seed: int = 0) -> Interval | None:
    """The geometric mean of `above` divided by that of `below`, over the tasks that both have.

    The bootstrap resamples tasks, with both circuits of each. None if no task is in both.
    """
    every = {*above, *below}
    logs = []
    for task in sorted(every):
        one, other = above.get(task), below.get(task)
        if one is not None and other is not None:
            logs.append(math.log(max(1, one)) - math.log(max(1, other)))
    return _interval(logs, len(every), seed)


def _interval(logs: Sequence[float], n_tasks: int, seed: int) -> Interval | None:
    """Percentile interval of the mean of logarithms, in the original unit."""
    if not logs:
        return None
    values = np.array(logs)
    drawn = np.random.default_rng(seed).integers(0, len(values), (DRAWS, len(values)))
    ends = percentile_ends(values, drawn)
    value = math.fsum(logs) / len(logs)
    return Interval(math.exp(value), math.exp(ends.low), math.exp(ends.high), len(logs), n_tasks - len(logs))

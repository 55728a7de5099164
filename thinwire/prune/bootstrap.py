"""Percentile bootstrap: a 95 % interval of a statistic from resamples of independent values."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

TAIL = 0.025
"""Share of the resamples that lies below an interval, and above it."""


class Ends(NamedTuple):
    """The two ends of an interval, in the unit of the values."""

    low: float
    high: float


def percentile_ends(values: np.ndarray, drawn: np.ndarray, statistic: Callable[..., np.ndarray] = np.mean) -> Ends:
    """The ends of the interval of a statistic of values [n], over resamples with replacement.

    `drawn` int [resamples, n] has the indices of each resample. `statistic` is a reduction over `axis`, such as
    `np.mean` or `np.median`.
    """
    low, high = np.quantile(statistic(values[drawn], axis=1), [TAIL, 1 - TAIL])
    return Ends(float(low), float(high))

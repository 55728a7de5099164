"""95 % confidence intervals. The same values and seed give the same interval."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from thinwire.verify.measurement import Interval

RESAMPLES = 1000
"""Bootstrap resamples behind an interval."""
TAIL = 0.025
"""Share of the resamples that lies below an interval, and above it."""
Z = 1.959964
"""Quantile of the normal distribution that belongs to TAIL."""


def bootstrap(values: Tensor, seed: int, statistic: Callable[[Tensor], Tensor] = torch.mean) -> Interval:
    """Percentile bootstrap interval of a statistic of independent values [n]: resample them with replacement."""
    generator = torch.Generator().manual_seed(seed)
    values, n = values.double().cpu(), len(values)
    draws = [statistic(values[torch.randint(n, (n,), generator=generator)]) for _ in range(RESAMPLES)]
    low, high = torch.stack(draws).quantile(torch.tensor([TAIL, 1 - TAIL], dtype=torch.float64)).tolist()
    return Interval(low, high)


def wilson(share: float, n: int) -> Interval:
    """Wilson score interval of a share measured in n independent trials; it has a width even at 0 and 1."""
    scale = 1 + Z * Z / n
    centre = (share + Z * Z / (2 * n)) / scale
    half = Z / scale * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))

"""95 % confidence intervals. The same values and seed give the same interval."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from thinwire.prune.bootstrap import TAIL, percentile_ends
from thinwire.verify.measurement import Interval

RESAMPLES = 1000
"""Bootstrap resamples behind an interval."""
Z = 1.959964
"""Quantile of the normal distribution that belongs to TAIL."""


def bootstrap(values: Tensor, seed: int, statistic: Callable[..., np.ndarray] = np.mean) -> Interval:
    """Percentile bootstrap interval of a statistic of independent values [n]: see `percentile_ends`."""
    n = len(values)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (RESAMPLES, n), generator=generator, dtype=torch.int64, device="cpu")
    ends = percentile_ends(values.double().numpy(force=True), drawn.numpy(), statistic)
    return Interval(ends.low, ends.high)


def ratio_interval(above: Tensor, below: Tensor, seed: int) -> Interval:
    """Percentile bootstrap interval of mean(above) / mean(below), of n independent pairs of values [n] each."""
    n = len(above)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (RESAMPLES, n), generator=generator, dtype=torch.int64, device="cpu")
    ratios = above.double().cpu()[drawn].mean(1) / below.double().cpu()[drawn].mean(1)
    low, high = ratios.quantile(torch.tensor([TAIL, 1 - TAIL], dtype=torch.float64, device="cpu")).tolist()
    return Interval(low, high)


def auc_interval(margins: Tensor, seed: int) -> Interval:
    """Percentile bootstrap interval of `auc_of` from margins [2n]; the two prompts of a pair stay together.

    A resample is a number of copies of each pair, so the log-odds are sorted once.
    """
    n = len(margins) // 2
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (RESAMPLES, n), generator=generator, dtype=torch.int64, device="cpu")
    one = torch.ones(1, dtype=torch.float64, device="cpu")
    copies = torch.zeros(RESAMPLES, n, dtype=torch.float64, device="cpu").scatter_add_(1, drawn, one.expand_as(drawn))
    right, wrong = margins.cpu().unflatten(0, (2, -1))
    wrong, order = (-wrong).sort()
    lower = torch.cat([torch.zeros(RESAMPLES, 1, dtype=torch.float64, device="cpu"), copies[:, order].cumsum(1)], 1)
    below, ties_too = (lower[:, torch.searchsorted(wrong, right, right=ties)] for ties in (False, True))
    found = (copies * (below + ties_too)).sum(1) / (2 * n * n)
    low, high = found.quantile(torch.tensor([TAIL, 1 - TAIL], dtype=torch.float64, device="cpu")).tolist()
    return Interval(low, high)


def wilson(share: float, n: int) -> Interval:
    """Wilson score interval of a share measured in n independent trials; it has a width even at 0 and 1."""
    scale = 1 + Z * Z / n
    centre = (share + Z * Z / (2 * n)) / scale
    half = Z / scale * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))

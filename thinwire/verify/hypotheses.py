"""The statistics of tests of a circuit: equivalence, independence, minimality (Shi et al. 2024, 2410.13032)."""

from collections.abc import Sequence
from math import comb
from typing import NamedTuple

import torch
from torch import Tensor

PERMUTATIONS = 999


def sign_test(wins: int, trials: int) -> float:
    """Two-sided p-value of so many wins in independent trials, if each side wins one half; 1 without trials."""
    tail = sum(comb(trials, k) for k in range(min(wins, trials - wins) + 1))
    return min(1.0, 2 * tail / 2**trials)


class Dependence(NamedTuple):
    """How two quantities depend on each other."""

    p: float
    """Share of permutations, the given order among them, whose HSIC is at least as large."""
    size: float
    """HSIC over that of each with itself: 0 for independent ones, 1 where one is the other."""


def dependence(one: Tensor, other: Tensor, seed: int) -> Dependence:
    """The HSIC of two rows of n values, with Gaussian kernels as wide as the median distance, by permutations.

    A row whose values are all equal depends on nothing.
    """
    own, others = (_centred(_kernel(values.double())) for values in (one, other))
    found = (own * others).sum()
    scale = (own.square().sum() * others.square().sum()).sqrt()
    if not scale:
        return Dependence(1.0, 0.0)
    generator, as_large = torch.Generator().manual_seed(seed), 1
    for _ in range(PERMUTATIONS):
        order = torch.randperm(len(one), generator=generator, dtype=torch.int64, device="cpu")
        as_large += bool((own * others[order][:, order]).sum() >= found)
    return Dependence(as_large / (PERMUTATIONS + 1), (found / scale).item())


def exceeded(effect: float, others: Sequence[float]) -> float:
    """Share of some effects, this one among them, that are at least as large."""
    return (1 + sum(other >= effect for other in others)) / (1 + len(others))


def _kernel(values: Tensor) -> Tensor:
    """Gaussian kernel [n, n] of values [n]."""
    apart = (values[:, None] - values).abs()
    some = apart[apart > 0]
    width = some.median() if some.numel() else torch.ones((), dtype=torch.float64, device="cpu")
    return (-(apart / width).square() / 2).exp()


def _centred(kernel: Tensor) -> Tensor:
    """A symmetric kernel [n, n] whose rows and columns have the mean 0."""
    rows = kernel.mean(0)
    return kernel - rows - rows[:, None] + rows.mean()

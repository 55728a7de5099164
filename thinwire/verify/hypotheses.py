"""The statistics of tests of a circuit: equivalence, independence, minimality (Shi et al. 2024, 2410.13032)."""

from collections.abc import Sequence
from math import comb

import torch
from torch import Tensor

PERMUTATIONS = 999


def sign_test(wins: int, trials: int) -> float:
    """Two-sided p-value of so many wins in independent trials, if each side wins one half; 1 without trials."""
    tail = sum(comb(trials, k) for k in range(min(wins, trials - wins) + 1))
    return min(1.0, 2 * tail / 2**trials)


def independence_test(one: Tensor, other: Tensor, seed: int) -> float:
    """p-value of the HSIC of two rows of n values: the share of orders of one of them that have as large a one.

    The given order is among them. Kernels are Gaussian, as wide as the median distance.
    """
    own, others = _centred(one), _centred(other)
    found = (own * others).sum()
    generator, as_large = torch.Generator().manual_seed(seed), 1
    for _ in range(PERMUTATIONS):
        order = torch.randperm(len(one), generator=generator, dtype=torch.int64, device="cpu")
        as_large += bool((own * others[order][:, order]).sum() >= found)
    return as_large / (PERMUTATIONS + 1)


def dependence(one: Tensor, other: Tensor) -> float:
    """The HSIC of two rows of n values over that of each with itself: 1 where one is the other.

    0 where they are independent, or the values of one are all equal.
    """
    own, others = _centred(one), _centred(other)
    scale = (own.square().sum() * others.square().sum()).sqrt()
    return ((own * others).sum() / scale).item() if scale else 0.0


def exceeded(effect: float, others: Sequence[float]) -> float:
    """Share of some effects, this one among them, that are at least as large."""
    return (1 + sum(other >= effect for other in others)) / (1 + len(others))


def _centred(values: Tensor) -> Tensor:
    """Gaussian kernel [n, n] of values [n], with rows and columns of mean 0."""
    values = values.double()
    apart = (values[:, None] - values).abs()
    some = apart[apart > 0]
    width = some.median() if some.numel() else torch.ones((), dtype=torch.float64, device="cpu")
    kernel = (-(apart / width).square() / 2).exp()
    rows = kernel.mean(0)
    return kernel - rows - rows[:, None] + rows.mean()

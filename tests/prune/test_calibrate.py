"""Calibration: as good as the best point of a fine grid, and harmless when there is nothing to fit."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from thinwire.circuit import Calibration, calibrate
from thinwire.prune.calibrate import fit_calibration
from thinwire.tasks import margin_losses

N = 48
CASES = {  # mean and spread of the first answer's log-odds on the one side and on the other
    "plain": ((1, 1), (-1, 1)),
    "offset": ((4, 1), (2, 1)),
    "large offset": ((44, 1), (42, 1)),
    "very large offset": ((-101, 1), (-103, 1)),
    "separated by a shift only": ((4, 0.1), (2, 0.1)),
    "small": ((0.03, 0.001), (0.01, 0.001)),
    "tiny": ((1.003, 1e-4), (1.001, 1e-4)),
    "uninformative": ((0, 1), (0, 1)),
    "the wrong way round": ((-1, 1), (1, 1)),
    "huge and overlapping": ((100, 200), (-100, 200)),
}


def loss(margins: Tensor, scale: Tensor | float, shift: Tensor | float) -> float:
    return margin_losses(calibrate(margins.double(), scale, shift)).mean().item()


def best_on_a_grid(margins: Tensor, max_scale: float) -> float:
    """Least loss over 161 scales up to the largest, each with its best shift by golden section (the loss is convex)."""
    scale = torch.logspace(-6, math.log10(max_scale), 161, dtype=torch.float64)[:, None]
    high = scale * margins.abs().max() + 20
    low = -high
    for _ in range(50):
        left, right = low + 0.382 * (high - low), low + 0.618 * (high - low)
        falls = losses(margins, scale, left) < losses(margins, scale, right)
        low, high = torch.where(falls, low, left), torch.where(falls, right, high)
    return losses(margins, scale, (low + high) / 2).min().item()


def losses(margins: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Of every row of scales and shifts [n, 1]: float64 [n, 1]."""
    return margin_losses(calibrate(margins.double(), scale, shift)).mean(-1, keepdim=True)


def test_fit_is_as_good_as_a_grid() -> None:
    for case, max_scale in product(CASES, (0.5, 3.0, 100.0)):
        generator = torch.Generator().manual_seed(0)
        sides = [mean + spread * torch.randn(N, generator=generator) for mean, spread in CASES[case]]
        margins = torch.cat([sides[0], -sides[1]])
        found = fit_calibration(margins, max_scale)
        reached = loss(margins, found.scale, found.shift)
        assert 0 < found.scale <= max_scale * (1 + 1e-9), (case, max_scale)
        assert reached <= best_on_a_grid(margins, max_scale) + 1e-4, (case, max_scale)
        assert margin_losses(found.apply(margins)).mean().item() == pytest.approx(reached, abs=1e-3), (case, max_scale)


@pytest.mark.parametrize("value", [0.0, 2.0, -50.0])
def test_margins_that_say_nothing_end_at_a_guess(value: float) -> None:
    margins = torch.cat([torch.full((N,), value), torch.full((N,), -value)])
    found = fit_calibration(margins, 3.0)
    assert 0 < found.scale <= 1
    assert loss(margins, found.scale, found.shift) == pytest.approx(0.6931, abs=1e-4)


def test_calibration_by_hand() -> None:
    """Log-odds of the first answer 3 and 1: doubled and shifted by -4 they are 2 and -2."""
    margins = torch.tensor([3.0, -1.0])
    assert Calibration(2.0, -4.0).apply(margins).tolist() == [2.0, 2.0]
    trials = torch.tensor([[3.0, -1.0], [0.0, 0.0]])
    assert Calibration(2.0, -4.0).apply(trials).tolist() == [[2.0, 2.0], [-4.0, 4.0]]
    assert Calibration().apply(margins).equal(margins)


def test_fit_leaves_no_gradient_behind() -> None:
    margins = torch.randn(2 * N, generator=torch.Generator().manual_seed(1), requires_grad=True)
    fit_calibration(margins, 3.0)
    assert margins.grad is None

"""Calibration: as good as the best point of a fine grid, and harmless when there is nothing to fit."""

import math

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
    least = float("inf")
    for scale in torch.logspace(-6, math.log10(max_scale), 161).tolist():
        reach = scale * margins.abs().max().item() + 20
        low, high = -reach, reach
        for _ in range(50):
            left, right = low + 0.382 * (high - low), low + 0.618 * (high - low)
            if loss(margins, scale, left) < loss(margins, scale, right):
                high = right
            else:
                low = left
        least = min(least, loss(margins, scale, (low + high) / 2))
    return least


@pytest.mark.parametrize("max_scale", [0.5, 3.0, 100.0])
@pytest.mark.parametrize("case", CASES)
def test_fit_is_as_good_as_a_grid(case: str, max_scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    sides = [mean + spread * torch.randn(N, generator=generator) for mean, spread in CASES[case]]
    margins = torch.cat([sides[0], -sides[1]])
    found = fit_calibration(margins, max_scale)
    assert 0 < found.scale <= max_scale * (1 + 1e-9)
    assert loss(margins, found.scale, found.shift) <= best_on_a_grid(margins, max_scale) + 1e-4
    assert margin_losses(found.apply(margins)).mean().item() == pytest.approx(
        loss(margins, found.scale, found.shift), abs=1e-3
    )


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

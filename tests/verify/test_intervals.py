"""Intervals: known values, and how often they hold the true value."""

import pytest
import torch

from thinwire.verify.intervals import bootstrap, wilson
from thinwire.verify.margins import Condition, mean_accuracy, mean_loss


def test_wilson_by_hand() -> None:
    """Newcombe 1998, table I: 81 of 263, and 0 of 20."""
    assert (wilson(81 / 263, 263).low, wilson(81 / 263, 263).high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert (wilson(0.0, 20).low, wilson(0.0, 20).high) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_bootstrap_holds_the_mean_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for seed in range(60):
        found = bootstrap(1 + torch.randn(100, generator=generator), seed)
        hits += found.low <= 1 <= found.high
    assert 50 <= hits <= 60


def test_bootstrap_is_seeded_and_agrees_with_theory() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(1))
    found = bootstrap(values, 3)
    assert found == bootstrap(values, 3)
    assert found != bootstrap(values, 4)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std().item() / 20, rel=0.1)
    assert bootstrap(torch.full((7,), 2.5), 0) == bootstrap(torch.full((3,), 2.5), 9)


def test_the_two_sides_of_a_pair_stay_together() -> None:
    """Margins that differ between sides but not between pairs have no variance over pairs."""
    margins, condition = torch.tensor([4.0] * 8 + [-1.0] * 8), Condition("x", "x", "none", 8)
    loss, accuracy = mean_loss(margins, condition, "", 0), mean_accuracy(margins, condition)
    assert loss.interval is not None
    assert (loss.interval.low, loss.interval.high) == pytest.approx((loss.value, loss.value))
    assert (accuracy.value, accuracy.interval) == (0.5, wilson(0.5, 8))

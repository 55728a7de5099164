"""Control of a penalty's strength, the pressure, so that the number of nonzeros follows a falling budget.

With r the number of nonzeros over the budget and e = log r, clipped to [-1/2, 1/2], after every step

    level    ← level · exp(rate · e), clipped to [LOWEST · highest, highest], where rate = RATE / steps,
    pressure ← level · (1 + gain · e).

This is dual ascent on the logarithm of a multiplier, which finds the order of magnitude by itself. The rate is relative
to the number of steps, so that the level can change by the same factor in a short run and in a long one. The gain is
the proportional part of an augmented Lagrangian: it keeps a slow system, such as gates, from overshooting. A system
that reacts at once, such as a threshold, needs none. With a gain the pressure turns negative well below the budget.
"""

import torch
from torch import Tensor, nn

RATE = 60.0
"""The level can change by half as many factors of e over a run."""
START = 0.03
"""Level at the start, relative to the highest."""
LOWEST = 1e-3
"""Smallest level, relative to the highest."""


class Steering(nn.Module):
    """Level and pressure of a run of so many steps, as buffers. The pressure is 0 before the first `follow`."""

    def __init__(self, steps: int, highest: float, gain: float) -> None:
        super().__init__()
        self.rate = min(RATE / steps, 0.2)  # larger factors would make a short run oscillate
        self.highest = highest
        self.gain = gain
        self.level: Tensor
        self.pressure: Tensor
        self.register_buffer("level", torch.tensor(START * highest, dtype=torch.float32))
        self.register_buffer("pressure", torch.tensor(0.0, dtype=torch.float32))

    @torch.no_grad()
    def follow(self, nonzeros: Tensor, budget: int) -> None:
        """Adjust the pressure to the number of nonzeros, a scalar, and its budget after a step."""
        error = (nonzeros / budget).log().clamp(-0.5, 0.5)
        self.level.mul_((self.rate * error).exp()).clamp_(LOWEST * self.highest, self.highest)
        self.pressure.copy_(self.level * (1 + self.gain * error))

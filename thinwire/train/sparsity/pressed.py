"""Pressed weights: what lasso and group lasso share, a proximal step under one steered pressure.

After the optimizer's update of step n the chosen parameters take the proximal step of the penalty with threshold
rate(n) · pressure, which shrinks weights and makes small ones exactly zero. One pressure acts on all parameters, so the
nonzeros spread over them as the gradients ask. It is steered so that their number follows the sum of the budgets
(`steering`). If after the last step they are more, the largest stay.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from thinwire.model.transformer import Transformer
from thinwire.train.config import TrainConfig
from thinwire.train.schedule import learning_rate_at
from thinwire.train.sparsity.base import Sparsifier
from thinwire.train.sparsity.steering import Steering

HIGHEST = 1.0
"""Highest pressure: an update of Adam is at most about one rate, so that nothing withstands it."""


class Pressed(Sparsifier, ABC):
    """Base of the ways that press weights towards zero."""

    def __init__(self, model: Transformer, config: TrainConfig) -> None:
        super().__init__(model, config)
        self.steering = Steering(config.steps, HIGHEST, gain=0.0)

    @abstractmethod
    def shrunk(self, name: str, weight: Tensor, threshold: Tensor) -> Tensor:
        """The proximal step of the penalty times `threshold`, a scalar, on the parameter called `name`."""

    @torch.no_grad()
    def after_step(self, model: Transformer, step: int) -> None:
        """Shrink, steer, and after the last step keep to the budget."""
        super().after_step(model, step)
        chosen, allowed = self.chosen(model), self.total_budget(model, step)
        if allowed == sum(parameter.numel() for _, parameter in chosen):  # dense so far
            return
        threshold = learning_rate_at(step - 1, self.schedule) * self.steering.pressure
        for name, parameter in chosen:
            parameter.copy_(self.shrunk(name, parameter, threshold))
        nonzeros = torch.stack([parameter.count_nonzero() for _, parameter in chosen]).sum()
        self.steering.follow(nonzeros, allowed)
        if step == self.config.steps:
            self.keep_largest_overall(model)


def soft_threshold(weight: Tensor, threshold: Tensor | float) -> Tensor:
    """sign(w) · max(|w| - threshold, 0), the proximal step of the absolute value."""
    return weight.sign() * (weight.abs() - threshold).clamp(min=0)

"""Proximal sparsifiers: what lasso and group lasso share, a proximal step under one controlled penalty strength.

1. The optimizer updates the weights, as in every step.
2. The chosen parameters take the proximal step of the penalty with threshold rate(n) · pressure, where n is the step.
   It shrinks weights and makes small ones exactly zero.
3. The pressure, one for all parameters, is adjusted so that the number of nonzeros follows the sum of the budgets
   (`steering`). So the gradients decide in which matrices the nonzeros are.
4. After the last step the largest weights stay, as many as the budget.
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
"""Highest pressure. An update of Adam is at most about one rate, so at this pressure every weight shrinks."""


class Proximal(Sparsifier, ABC):
    """Base of the sparsifiers that shrink weights towards zero."""

    def __init__(self, model: Transformer, config: TrainConfig) -> None:
        super().__init__(model, config)
        self.steering = Steering(config.steps, HIGHEST, gain=0.0)

    @abstractmethod
    def shrunk(self, name: str, weight: Tensor, threshold: Tensor) -> Tensor:
        """The proximal step of the penalty times `threshold`, a scalar, on the parameter called `name`.

        `weight` is a matrix [out, in] or a bias [out]; the result has its shape.
        """

    @torch.no_grad()
    def after_step(self, model: Transformer, step: int) -> None:
        """Shrink, adjust the pressure, and after the last step keep to the budget."""
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
    """sign(w) · max(|w| - threshold, 0), the proximal step of the absolute value; in the shape of `weight`."""
    return weight.sign() * (weight.abs() - threshold).clamp(min=0)

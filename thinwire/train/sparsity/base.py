"""What every way to sparsity has in common: one instance per run decides which weights are zero, and when."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from thinwire.config import Config
from thinwire.model.transformer import Transformer
from thinwire.registry import Registry
from thinwire.train.config import TrainConfig


class NoOptions(Config):
    """Options of a way to sparsity that has none."""


class Sparsifier(nn.Module):
    """Base of the ways to sparsity. Parameters and buffers of an instance are trained and checkpointed with the model.

    The weights that compute are `effective`: the model's own parameters, or others computed from them.
    `penalty` joins the loss, `after_step` follows every update, and `settle` leaves a model that is sparse by itself.
    """

    Options: ClassVar[type[Config]] = NoOptions
    learns_apart: ClassVar[bool] = False
    """Whether the parameters that are trained differ from the weights that compute."""

    def __init__(self, model: Transformer, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.options = self.Options.model_validate(config.sparsity_options)

    def effective(self, model: Transformer) -> dict[str, Tensor]:
        """Weights that replace parameters of the same name in the forward pass; differentiable while training."""
        return {}

    def penalty(self, model: Transformer) -> Tensor | None:
        """What is added to the loss, a scalar."""
        return None

    def after_step(self, model: Transformer, step: int) -> None:
        """What follows the optimizer's update number `step` (1 is the first)."""

    @torch.no_grad()
    def settle(self, model: Transformer, step: int) -> None:
        """Give the model, in place, the sparse weights that stand for this run after `step`; must not change self."""
        was_training = self.training
        for name, value in self.eval().effective(model).items():
            model.get_parameter(name).copy_(value)
        self.train(was_training)


SPARSIFIERS: Registry[type[Sparsifier]] = Registry("way to sparsity")

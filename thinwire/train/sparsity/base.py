"""What every way to sparsity has in common: one instance per run decides which weights are zero, and when."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from thinwire.config import Config
from thinwire.engine.topk.select import keep_largest_
from thinwire.errors import UserError
from thinwire.model.transformer import Transformer
from thinwire.model.weights import sparse_parameters
from thinwire.registry import Registry
from thinwire.train.config import TrainConfig
from thinwire.train.l0 import budget, check_floor


class NoOptions(Config):
    """Options of a way to sparsity that has none."""


class Sparsifier(nn.Module):
    """Base of the ways to sparsity. Parameters and buffers of an instance are trained and checkpointed with the model.

    The weights that compute are `effective`: the model's own parameters, or others computed from them.
    `penalty` joins the loss, `after_step` follows every update, and `settle` leaves a model that is sparse by itself.
    Whatever the way, the model that is settled after the last step has at most `total_budget(model, steps)` nonzeros.

    Raises UserError when the floor does not fit the density, or is asked of a way that keeps none.
    """

    Options: ClassVar[type[Config]] = NoOptions
    learns_apart: ClassVar[bool] = False
    """Whether the parameters that are trained differ from the weights that compute."""
    keeps_floor: ClassVar[bool] = False
    """Whether every neuron and attention channel keeps the config's floor of nonzeros."""
    shards: ClassVar[bool] = False
    """Whether it works where every rank holds only its rows of a matrix."""
    needs_start: ClassVar[bool] = False
    """Whether the run has to begin with the weights of another model."""
    learning_rate: float = 0.0
    """Peak rate of the instance's own parameters; it rises and decays with the model's, without the L0 factor."""

    def __init__(self, model: Transformer, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.options = self.Options.model_validate(config.sparsity_options)
        self.schedule = config
        """The config whose density and learning rate schedules the run follows."""
        self.updates: Tensor
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.refuse_floor(config)
        if self.keeps_floor:
            check_floor(model, config)

    @classmethod
    def refuse_floor(cls, config: TrainConfig) -> None:
        """Raise UserError when the config asks for a floor that this way does not keep."""
        if config.floor and config.density < 1 and not cls.keeps_floor:
            raise UserError(f"The {config.sparsity} way to sparsity keeps no floor; set floor to 0.")

    def effective(self, model: Transformer) -> dict[str, Tensor]:
        """Weights that replace parameters of the same name in the forward pass; differentiable while training."""
        return {}

    def penalty(self, model: Transformer) -> Tensor | None:
        """What is added to the loss, a scalar."""
        return None

    def after_step(self, model: Transformer, step: int) -> None:
        """What follows the optimizer's update number `step` (1 is the first)."""
        self.updates.fill_(step)

    @torch.no_grad()
    def settle(self, model: Transformer, step: int) -> None:
        """Give the model, in place, the sparse weights that stand for this run after `step`; must not change self."""
        was_training = self.training
        for name, value in self.eval().effective(model).items():
            model.get_parameter(name).copy_(value)
        self.train(was_training)

    def sparse(self, model: Transformer) -> list[tuple[str, nn.Parameter]]:
        """Names and values of the sparse parameters, without the biases where these stay dense."""
        dense = () if self.config.sparse_biases else (".bias",)
        return [(name, p) for name, p in sparse_parameters(model) if not name.endswith(dense)]

    def chosen(self, model: Transformer) -> list[tuple[str, nn.Parameter]]:
        """Those of them that become sparser in this run: all, or none at density 1."""
        return self.sparse(model) if self.config.density < 1 else []

    def total_budget(self, model: Transformer, step: int) -> int:
        """Nonzeros that the chosen parameters have a budget for after `step`, together."""
        kept = budget(model, step, self.schedule)
        return sum(kept[name] for name, _ in self.chosen(model))

    @torch.no_grad()
    def keep_largest_overall(self, model: Transformer) -> None:
        """Keep the largest entries over all chosen parameters, as many as the budget has after the last step.

        Exact; ties go to the parameter that comes first, and in it to the lowest index.
        """
        values = [p for _, p in self.chosen(model)]
        if not values:
            return
        flat = torch.cat([p.detach().flatten() for p in values])
        keep_largest_(flat, min(self.total_budget(model, self.config.steps), len(flat)))
        for parameter, kept in zip(values, flat.split([p.numel() for p in values]), strict=True):
            parameter.copy_(kept.view_as(parameter))


def key(name: str) -> str:
    """A parameter's name as a name of something that belongs to it, which may hold no point."""
    return name.replace(".", "/")


SPARSIFIERS: Registry[type[Sparsifier]] = Registry("way to sparsity")

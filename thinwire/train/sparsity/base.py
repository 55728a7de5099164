"""What all sparsifiers have in common: one instance per run decides which weights are zero, and when."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from thinwire.engine.topk.select import keep_largest_
from thinwire.model.transformer import Transformer
from thinwire.model.weights import sparse_parameters
from thinwire.registry import Registry
from thinwire.train.config import TrainConfig
from thinwire.train.density import check_floor_is_kept
from thinwire.train.l0 import budget, check_floor
from thinwire.train.sparsity.options import OPTIONS, SparsifierOptions


class Sparsifier(nn.Module):
    """Base of the sparsifiers. Parameters and buffers of an instance are trained and checkpointed with the model.

    1. `effective` gives the weights of the forward pass: the model's own parameters, or others computed from them.
    2. `penalty` is added to the loss.
    3. `after_step` follows every update of the optimizer.
    4. `materialize` writes the sparse weights into the model.

    With every sparsifier, the model that is materialized after the last step has at most `total_budget(model, steps)`
    nonzeros. Raises UserError when the floor of the config does not fit its density, or the sparsifier keeps none.
    """

    trains_latent_weights: ClassVar[bool] = False
    """Whether the parameters that are trained differ from the weights of the forward pass."""
    learning_rate: float = 0.0
    """Peak rate of the instance's own parameters; it rises and decays with the model's, without the L0 factor."""

    def __init__(self, model: Transformer, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.options: SparsifierOptions = OPTIONS[config.sparsity].model_validate(config.sparsity_options)
        self.schedule = config
        """The config whose density and learning rate schedules the run follows."""
        self.updates: Tensor
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        check_floor_is_kept(config)
        if self.options.keeps_floor:
            check_floor(model, config)

    def effective(self, model: Transformer) -> dict[str, Tensor]:
        """Weights that replace parameters of the same name and shape in the forward pass; differentiable in training.

        Without training mode they are those of evaluation, such as gates without noise.
        """
        return {}

    def penalty(self, model: Transformer) -> Tensor | None:
        """What is added to the loss, a scalar in nats per token; None for nothing."""
        return None

    def after_step(self, model: Transformer, step: int) -> None:
        """What follows the optimizer's update number `step` (1 is the first)."""
        self.updates.fill_(step)

    @torch.no_grad()
    def materialize(self, model: Transformer, step: int) -> None:
        """Replace the model's parameters, in place, by the sparse weights after `step`; must not change self."""
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
        """The nonzeros that the chosen parameters together may have after `step`."""
        kept = budget(model, step, self.schedule)
        return sum(kept[name] for name, _ in self.chosen(model))

    @torch.no_grad()
    def keep_largest_overall(self, model: Transformer) -> None:
        """Keep the largest entries over all chosen parameters, as many as the budget after the last step; in place.

        Exact; ties go to the parameter that comes first, and in it to the lowest index.
        """
        values = [p for _, p in self.chosen(model)]
        if not values:
            return
        flat = torch.cat([p.detach().flatten() for p in values])
        keep_largest_(flat, min(self.total_budget(model, self.config.steps), len(flat)))
        for parameter, kept in zip(values, flat.split([p.numel() for p in values]), strict=True):
            parameter.copy_(kept.view_as(parameter))


def buffer_name(name: str) -> str:
    """The name of a parameter, for a buffer or parameter that belongs to it: such names may not contain a point."""
    return name.replace(".", "/")


SPARSIFIERS: Registry[type[Sparsifier]] = Registry("sparsifier")

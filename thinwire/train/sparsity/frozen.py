"""Frozen support: fine-tuning in which the nonzeros of the start model stay the only nonzeros.

The support is the budget, so no density schedule applies. The L0 factor is the same at every step, and 1 where it is
relative to the final density. The start model has to meet the density of the config; a dense start at density 1 trains
densely. Gradients stay dense, as in weight top-k. So their norm, and with it a learning rate, means the same as in the
run that trained the start model.
"""

import torch

from thinwire.errors import UserError
from thinwire.model.transformer import Transformer
from thinwire.model.weights import count_sparse_entries
from thinwire.train.config import TrainConfig
from thinwire.train.l0 import budget
from thinwire.train.rows import local, local_rows
from thinwire.train.sparsity.base import SPARSIFIERS, Sparsifier, buffer_name


@SPARSIFIERS.register("frozen")
class Frozen(Sparsifier):
    """One mask per sparse parameter: where the start model is not zero. Dense biases have no mask.

    Raises UserError when the start model has more nonzeros than the density of the config allows.
    """

    def __init__(self, model: Transformer, config: TrainConfig) -> None:
        super().__init__(model, config)
        for name, parameter in self.sparse(model):
            self.register_buffer(buffer_name(name), parameter.detach() != 0)
        zeros = sum(int((parameter == 0).sum()) for _, parameter in self.sparse(model))
        entries = count_sparse_entries(model.config)
        nonzeros = entries - zeros  # every entry of a dense bias counts as one
        allowed = sum(budget(model, config.steps, config).values())
        if nonzeros > allowed:
            raise UserError(
                f"The start model has {nonzeros} nonzeros and density {config.density:g} allows {allowed}; "
                "start from a sparser model or raise the density."
            )
        density = max(nonzeros, 1) / entries
        self.schedule = config.replace(density=density, anneal="none")

    @torch.no_grad()
    def after_step(self, model: Transformer, step: int) -> None:
        """Zero what the update has moved outside the support."""
        super().after_step(model, step)
        for name, parameter in self.sparse(model):
            local(parameter).mul_(self.get_buffer(buffer_name(name))[slice(*local_rows(parameter))])

"""Frozen support: fine-tuning in which the nonzeros of the start model stay the only nonzeros.

The support is the budget: no schedule of densities applies, and the L0 factor is the same at every step (1 where it is
relative to the final density). The density of the config is a bound that the start model has to meet; a dense start at
density 1 trains densely.
Gradients stay dense, as in weight top-k, so that their norm, and with it a learning rate, means the same as in the run
that made the start model.
"""

import torch

from thinwire.errors import UserError
from thinwire.model.transformer import Transformer
from thinwire.model.weights import count_sparse_entries
from thinwire.train.config import TrainConfig
from thinwire.train.l0 import budget
from thinwire.train.rows import local, local_rows
from thinwire.train.sparsity.base import SPARSIFIERS, Sparsifier, key


@SPARSIFIERS.register("frozen")
class Frozen(Sparsifier):
    """One mask per parameter, of the places where the start model is not zero; dense biases have none.

    Raises UserError when the start model has more nonzeros than the density of the config allows.
    """

    needs_start = True
    shards = True

    def __init__(self, model: Transformer, config: TrainConfig) -> None:
        super().__init__(model, config)
        for name, parameter in self.sparse(model):
            self.register_buffer(key(name), parameter.detach() != 0)
        zeros = sum(int((parameter == 0).sum()) for _, parameter in self.sparse(model))
        nonzeros = count_sparse_entries(model) - zeros  # those that may be: every entry of a dense bias is one
        allowed = sum(budget(model, config.steps, config).values())
        if nonzeros > allowed:
            raise UserError(
                f"The start model has {nonzeros} nonzeros and density {config.density:g} allows {allowed}; "
                "start from a sparser model or raise the density."
            )
        density = max(nonzeros, 1) / count_sparse_entries(model)
        self.schedule = config.replace(density=density, anneal="none")

    @torch.no_grad()
    def after_step(self, model: Transformer, step: int) -> None:
        """Zero what the update has moved outside the support."""
        super().after_step(model, step)
        for name, parameter in self.sparse(model):
            local(parameter).mul_(self.get_buffer(key(name))[slice(*local_rows(parameter))])

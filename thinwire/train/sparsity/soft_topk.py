"""Soft top-k: compute with the exact top-k of dense weights, and let gradients reach a wider support of them.

The parameters that are trained stay dense. With k the budget of a parameter θ and t its k-th largest magnitude,

    forward:   θ_i where i is one of the k kept entries (those that `topk` would keep, floor included), else 0
    backward:  dL/dθ_i = p_i · dL/dw_i, where
               p_i = 1                                          for the kept entries,
               p_i = 2 · sigmoid((|θ_i| - t) / (temperature · t)) for the others among the largest backward_factor · k,
               p_i = 0                                          for the rest.

So p is continuous at the threshold, where it is 1, and a weight just below it learns almost as if it were kept. Weights
outside the wider support have no gradient and only decay. Zeros have no order: where fewer than backward_factor · k
weights are nonzero, all zeros are among the largest, so that a sparse start model can grow; where t is 0 they have p 1.
"""

import torch
from torch import Tensor

from thinwire.engine.topk.select import keep_largest_
from thinwire.model.transformer import Transformer
from thinwire.train.l0 import budget, project, project_values
from thinwire.train.sparsity.base import SPARSIFIERS, Sparsifier
from thinwire.train.sparsity.options import SoftTopKOptions


@SPARSIFIERS.register("soft_topk")
class SoftTopK(Sparsifier):
    """Exact top-k of dense weights forward, a wider support backward."""

    trains_latent_weights = True
    options: SoftTopKOptions

    def effective(self, model: Transformer) -> dict[str, Tensor]:
        """The top-k of each parameter at the budget of the last update, by name, in the parameter's shape."""
        kept = budget(model, int(self.updates), self.config)
        chosen = [(name, p) for name, p in self.chosen(model) if kept[name] < p.numel()]
        return {name: self._soft(name, parameter, kept[name]) for name, parameter in chosen}

    @torch.no_grad()
    def materialize(self, model: Transformer, step: int) -> None:
        """Project the model onto the budget after `step`."""
        project(model, budget(model, step, self.config), self.config.floor)

    def _soft(self, name: str, dense: Tensor, k: int) -> Tensor:
        kept = dense.detach().clone()
        project_values(name, kept, k, self.config.floor)
        if not self.training:
            return kept
        passes = pass_fractions(dense.detach(), kept, k, self.options)
        return torch.addcmul(kept, passes, dense - dense.detach())  # the value of kept, the gradient of passes · dense


def pass_fractions(dense: Tensor, kept: Tensor, k: int, options: SoftTopKOptions) -> Tensor:
    """The fraction p of its gradient that reaches each weight; `dense`, `kept` and the result have one shape.

    `kept` is nonzero at the k entries that compute.
    """
    reached = min(round(options.backward_factor * k), dense.numel())
    largest, wide, magnitude = dense.clone(), dense.clone(), dense.abs()
    keep_largest_(largest, k)
    keep_largest_(wide, reached)
    smallest = magnitude.masked_fill(largest == 0, torch.inf).amin()
    threshold = torch.where(largest.count_nonzero() == k, smallest, 0.0)
    width = (options.temperature * threshold).clamp(min=torch.finfo(dense.dtype).tiny)
    beyond = (wide == 0) & (wide.count_nonzero() == reached)
    return (2 * torch.sigmoid((magnitude - threshold) / width)).masked_fill_(beyond, 0).masked_fill_(kept != 0, 1)

"""Group lasso penalty: whole channels shrink towards zero together (Yuan and Lin 2006), mixed with L1 inside them.

A group is a channel's weights in one matrix: the row of a query, key, value or neuron in its input matrix, the column
of a value or neuron in its output matrix, the row of a token in the embedding or unembedding. A bias is a group by
itself. The penalty is Σ_g (1 - l1_fraction) · √size_g · ‖w_g‖ + l1_fraction · Σ |w|, whose proximal step is a soft
threshold followed by the shrinking of each group (Simon et al. 2013).
"""

import torch
from torch import Tensor

from thinwire.model.weights import floor_dim
from thinwire.train.sparsity.base import SPARSIFIERS
from thinwire.train.sparsity.options import GroupLassoOptions
from thinwire.train.sparsity.proximal import Proximal, soft_threshold


@SPARSIFIERS.register("group_lasso")
class GroupLasso(Proximal):
    """Whole channels become zero; the L1 part of the penalty also removes single weights."""

    options: GroupLassoOptions

    def shrunk(self, name: str, weight: Tensor, threshold: Tensor) -> Tensor:
        """Soft threshold, then group shrinkage of a matrix [out, in] or bias [out]; `threshold` is a scalar.

        A group whose norm is below its threshold becomes zero.
        """
        alone = self.options.l1_fraction
        if weight.ndim == 1:
            return soft_threshold(weight, threshold)
        weight = soft_threshold(weight, alone * threshold)
        dim = 0 if floor_dim(name) == 0 else 1
        norm = torch.linalg.vector_norm(weight, dim=dim, keepdim=True)
        share = (1 - alone) * threshold * weight.shape[dim] ** 0.5
        return weight * (1 - share / norm.clamp(min=torch.finfo(norm.dtype).tiny)).clamp(min=0)

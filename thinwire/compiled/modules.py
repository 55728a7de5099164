"""Linear maps and embeddings on sparse kernels: they store the nonzeros alone.

Their results are feature-major (see `thinwire.engine.layout`), and every operator after them keeps that layout.
"""

import torch
from torch import Tensor, nn

from thinwire.engine.layout import activations, features
from thinwire.engine.sites import operator as sites
from thinwire.engine.sites.operator import Nonlinearity
from thinwire.engine.sites.pointwise import Ablation
from thinwire.engine.spmm.operators import gather_rows, multiply, table_rows
from thinwire.engine.spmm.pattern import PatternTensors, SparsePattern
from thinwire.model.fusable import Fusable

MATRICES = ("w_q", "w_k", "w_v", "w_o", "w_in", "w_out", "embedding", "unembedding")
"""Modules with a matrix that training makes sparse."""


class Sparse(nn.Module):
    """Base of modules of a sparse matrix: nonzeros `values` [nonzeros], row by row, and their positions, `pattern`."""

    def __init__(self, pattern: SparsePattern, values: Tensor) -> None:
        super().__init__()
        self.shape = pattern.n_rows, pattern.n_columns
        for name, tensor in zip(PatternTensors._fields, pattern.tensors, strict=True):
            self.register_buffer(name, tensor)
        self.values = nn.Parameter(values)

    @property
    def pattern(self) -> SparsePattern:
        """Where the nonzeros are."""
        return SparsePattern(*self.shape, *(getattr(self, name) for name in PatternTensors._fields))

    @property
    def weight(self) -> Tensor:
        """The whole matrix [out, in], computed anew."""
        weight = self.values.new_zeros(self.shape)
        return weight.index_put((self.pattern.row_of_each(), self.pattern.indices.long()), self.values)

    def extra_repr(self) -> str:
        return f"{self.shape[0]}×{self.shape[1]}, {len(self.values)} nonzeros"


class SparseLinear(Sparse, Fusable):
    """`torch.nn.Linear`; the bias is zero where the dense module has none."""

    def __init__(self, pattern: SparsePattern, values: Tensor, bias: Tensor | None) -> None:
        super().__init__(pattern, values)
        self.bias = nn.Parameter(values.new_zeros(pattern.n_rows) if bias is None else bias)

    def forward(self, x: Tensor) -> Tensor:  # [..., in] to [..., out], feature-major float32
        return multiply(x, self.pattern, self.values, self.bias)

    def map_and_keep(self, x: Tensor, nonlinearity: Nonlinearity, k: int, ablation: Ablation | None) -> Tensor | None:
        """See `Fusable`; for x [..., in]."""
        if not sites.pays(x):
            return None
        return sites.map_and_keep(x, self.pattern, self.values, self.bias, nonlinearity, k, ablation)


class FeatureLinear(nn.Linear):
    """`torch.nn.Linear` among sparse maps: too dense to be one, but its result is feature-major too."""

    def forward(self, x: Tensor) -> Tensor:  # [..., in] to [..., out], feature-major
        bias = self.weight.new_zeros(len(self.weight)) if self.bias is None else self.bias
        return activations(torch.addmm(bias[:, None], self.weight, features(x)), x.shape[:-1])


class FeatureEmbedding(nn.Embedding):
    """`torch.nn.Embedding` among sparse maps, feature-major."""

    def forward(self, tokens: Tensor) -> Tensor:  # [...] to [..., width], feature-major
        weight = self.weight
        if weight.device.type == "cpu" and weight.dtype == torch.float32 and not weight.requires_grad:
            return table_rows(tokens, weight)
        return activations(features(super().forward(tokens)), tokens.shape)


class SparseEmbedding(Sparse):
    """`torch.nn.Embedding`."""

    def forward(self, tokens: Tensor) -> Tensor:  # [...] to [..., width], feature-major float32
        return gather_rows(tokens, self.pattern, self.values)


def sparse_module(module: nn.Module) -> Sparse:
    """The sparse module for a dense linear map or embedding, without gradient."""
    assert isinstance(module, nn.Linear | nn.Embedding)
    weight = module.weight.detach()
    rows, columns = weight.nonzero(as_tuple=True)
    pattern, values = SparsePattern.of(rows, columns, (weight.shape[0], weight.shape[1])), weight[rows, columns]
    if isinstance(module, nn.Embedding):
        return SparseEmbedding(pattern, values)
    return SparseLinear(pattern, values, None if module.bias is None else module.bias.detach())

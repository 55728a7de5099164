"""The operators of this room in plain PyTorch, on dense matrices: what the kernels are tested against."""

import torch
from torch import Tensor

from thinwire.engine.spmm.pattern import SparsePattern


def dense(pattern: SparsePattern, values: Tensor) -> Tensor:
    """The whole matrix [n_rows, n_columns] of values [nonzeros]; differentiable."""
    zeros = values.new_zeros(pattern.n_rows, pattern.n_columns)
    return zeros.index_put((pattern.row_of_each(), pattern.indices.long()), values)


def multiply(x: Tensor, pattern: SparsePattern, values: Tensor, bias: Tensor) -> Tensor:
    """x [..., n_columns] times the transposed matrix, plus bias [n_rows]: [..., n_rows]."""
    return torch.nn.functional.linear(x, dense(pattern, values), bias)


def gather_rows(tokens: Tensor, pattern: SparsePattern, values: Tensor) -> Tensor:
    """Rows of the matrix by index [...]: [..., n_columns]."""
    return dense(pattern, values)[tokens]

"""Where the nonzeros of a sparse matrix are, for products from both sides.

The values are a tensor of their own, so that they can be trained, or replaced for one call, without sorting anything
again.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from thinwire.engine.layout import floats


class PatternTensors(NamedTuple):
    """The tensors of a `SparsePattern`, by name; operators take them as a list."""

    indices: Tensor
    indptr: Tensor
    csc_indices: Tensor
    csc_indptr: Tensor
    csc_order: Tensor


@dataclass(frozen=True)
class SparsePattern:
    """The nonzeros of a matrix [n_rows, n_columns]: compressed rows (CSR), and an index by column (CSC)."""

    n_rows: int
    n_columns: int
    indices: Tensor
    """CSR: the column of each nonzero, row by row. int32 [nonzeros]"""
    indptr: Tensor
    """CSR: the first nonzero of each row, and the number of nonzeros. int32 [n_rows + 1]"""
    csc_indices: Tensor
    """CSC: the row of each nonzero, column by column. int32 [nonzeros]"""
    csc_indptr: Tensor
    """CSC: the first nonzero of each column, and the number of nonzeros. int32 [n_columns + 1]"""
    csc_order: Tensor
    """The CSR index of each nonzero, column by column: `values[csc_order]` are values by column. int64 [nonzeros]"""

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> "SparsePattern":
        """The pattern of nonzeros at int64 `rows` and `columns` [nonzeros], sorted by row, then column."""
        order = columns.argsort(stable=True)
        return cls(
            *shape,
            indices=columns.to(torch.int32),
            indptr=first_of_each(rows, shape[0]),
            csc_indices=rows[order].to(torch.int32),
            csc_indptr=first_of_each(columns, shape[1]),
            csc_order=order,
        )

    @property
    def tensors(self) -> list[Tensor]:
        """The fields of `PatternTensors`, as operators take them.

        Each is [nonzeros], but `indptr` [n_rows + 1] and `csc_indptr` [n_columns + 1].
        """
        return [getattr(self, name) for name in PatternTensors._fields]

    def row_of_each(self) -> Tensor:
        """The row of each nonzero, row by row. int64 [nonzeros]"""
        counts = self.indptr.diff().long()
        return torch.arange(self.n_rows, device=counts.device, dtype=torch.int64).repeat_interleave(counts)

    def check(self, x: Tensor) -> None:
        """Raise ValueError unless x is [..., n_columns]: kernels would read beyond it."""
        if x.shape[-1] != self.n_columns:
            raise ValueError(f"The map takes {self.n_columns} channels, not {x.shape[-1]}.")


def first_of_each(keys: Tensor, n: int) -> Tensor:
    """For keys in [0, n), where each key begins once they are sorted, and their number: int32 [n + 1]."""
    indptr = torch.zeros(n + 1, dtype=torch.int32, device=keys.device)
    indptr[1:] = torch.bincount(keys, minlength=n).cumsum(0)
    return indptr


class CsrMatrix(NamedTuple):
    """A sparse matrix [out, in] with a bias, as CPU kernels take it."""

    values: np.ndarray
    """float32 [nonzeros]"""
    indices: np.ndarray
    """The column of each nonzero, row by row. int32 [nonzeros]"""
    indptr: np.ndarray
    """The first nonzero of each row, and the number of nonzeros. int32 [out + 1]"""
    bias: np.ndarray
    """float32 [out]"""


def csr_matrix(values: Tensor, bias: Tensor, indices: Tensor, indptr: Tensor) -> CsrMatrix:
    """The matrix [out, in] of values [nonzeros] at `indices` [nonzeros] and `indptr` [out + 1], and a bias [out]."""
    return CsrMatrix(floats(values), indices.numpy(), indptr.numpy(), floats(bias))

"""GPU kernels for products of a sparse matrix with feature-major activations, in Triton.

They compute what `thinwire.engine.spmm.kernels` computes on a CPU. A nonzero weight multiplies a contiguous row of
activations, which is work for the ordinary cores. A program takes some rows of the result, or some nonzeros, and a
block of tokens. It sums in float32 in a fixed order, so that results repeat.

`thinwire.engine.spmm.operators` calls these on CUDA devices where Triton is installed. Under TRITON_INTERPRET=1 they
run on CPU tensors, slowly, for tests.
"""

# pyright does not know the types in Triton kernels
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportOptionalOperand=false

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from thinwire.engine.layout import INTEGERS

ROWS = 4
"""Rows of a product that one program computes, one after the other."""
TOKENS = 512
"""Most tokens that one program takes."""
UNROLL = 4
"""Nonzeros of a row that one loop iteration multiplies, so that the loads of their activations overlap."""
NONZEROS = 8
"""Nonzeros whose gradients one program computes."""
GATHER_TOKENS, GATHER_NONZEROS = 16, 32
"""Tokens of one program that gathers rows, and how many nonzeros of each it writes at once."""
POSITIONS = 64
"""Positions of a token whose gradients are added at once."""


class CsrMatrix(NamedTuple):
    """A sparse matrix [rows, columns] as kernels take it, with a bias if it is for a product."""

    data: Tensor
    """The values. A Triton tuple has an attribute `values` of its own. float32 or bfloat16 [nonzeros]"""
    indices: Tensor
    """The column of each nonzero, row by row. int32 [nonzeros]"""
    indptr: Tensor
    """The first nonzero of each row, and the number of nonzeros. int32 [rows + 1]"""
    bias: Tensor | None
    """float32 [rows]"""


class ProductSize(NamedTuple):
    """Sizes of a product [rows, tokens]."""

    rows: int
    tokens: int
    row_blocks: int
    """Programs that share the rows of a block of tokens."""


class Nonzeros(NamedTuple):
    """The nonzeros of a sparse matrix, row by row."""

    rows: Tensor
    """int32 [nonzeros]"""
    columns: Tensor
    """int32 [nonzeros]"""
    n: int


class Positions(NamedTuple):
    """The positions of each token: token v is at `by_token[indptr[v]:indptr[v + 1]]`."""

    by_token: Tensor
    """int64 [n]"""
    indptr: Tensor
    """int64 [tokens + 1]"""


def multiply(x: Tensor, values: Tensor, bias: Tensor, indices: Tensor, indptr: Tensor) -> Tensor:
    """The CSR matrix [rows, in] times contiguous x [in, n], plus bias [rows]: [rows, n].

    x and `values` [nonzeros] are read as float32 or bfloat16. The result has the dtype of x if that is one of these,
    and is float32 otherwise.
    """
    x = _readable(x)
    n_rows, n = len(indptr) - 1, x.shape[1]
    out = torch.empty(n_rows, n, dtype=x.dtype, device=x.device)
    block = min(TOKENS, max(32, triton.next_power_of_2(n)))
    size = ProductSize(n_rows, n, triton.cdiv(n_rows, ROWS))
    if out.numel():
        with torch.cuda.device_of(x):
            _multiply[(size.row_blocks * triton.cdiv(n, block),)](
                CsrMatrix(values, indices, indptr, bias), x, out, size,
                ROWS=ROWS, TOKENS=block, UNROLL=UNROLL, num_warps=max(1, block // 128),
            )  # fmt: skip
    return out


def weight_gradient(indices: Tensor, indptr: Tensor, x: Tensor, grad: Tensor) -> Tensor:
    """The gradient of each value, float32 [nonzeros], from contiguous x [in, n] and the product's grad [rows, n]."""
    x, grad = _readable(x), _readable(grad)
    out = torch.zeros(len(indices), device=x.device, dtype=torch.float32)
    block = min(TOKENS // 2, max(32, triton.next_power_of_2(x.shape[1])))
    if out.numel():
        with torch.cuda.device_of(x):
            _weight_gradient[(triton.cdiv(len(indices), NONZEROS),)](
                _nonzeros(indices, indptr), x, grad, out, x.shape[1],
                NONZEROS=NONZEROS, TOKENS=block, num_warps=max(1, block // 64),
            )  # fmt: skip
    return out


def gather_rows(tokens: Tensor, values: Tensor, indices: Tensor, indptr: Tensor, width: int) -> Tensor:
    """Rows of the CSR matrix [rows, width] by index [n], as the columns of a float32 matrix [width, n]."""
    n = len(tokens)
    out = torch.zeros(width, n, device=values.device, dtype=torch.float32)
    if n and len(values):
        with torch.cuda.device_of(values):
            _gather_rows[(triton.cdiv(n, GATHER_TOKENS),)](
                tokens, CsrMatrix(values, indices, indptr, None), out, n,
                TOKENS=GATHER_TOKENS, NONZEROS=GATHER_NONZEROS, num_warps=4,
            )  # fmt: skip
    return out


def gather_gradient(tokens: Tensor, indices: Tensor, indptr: Tensor, grad: Tensor) -> Tensor:
    """The gradient of each value, float32 [nonzeros], from contiguous grad [width, n] of `gather_rows`."""
    grad = _readable(grad)
    out = torch.zeros(len(indices), device=grad.device, dtype=torch.float32)
    in_order, by_token = tokens.sort(stable=True)
    every = torch.arange(len(indptr), dtype=tokens.dtype, device=tokens.device)
    if out.numel() and grad.numel():
        with torch.cuda.device_of(grad):
            _gather_gradient[(triton.cdiv(len(indices), NONZEROS),)](
                _nonzeros(indices, indptr), Positions(by_token, torch.searchsorted(in_order, every)),
                grad, out, grad.shape[1], NONZEROS=NONZEROS, POSITIONS=POSITIONS, num_warps=4,
            )  # fmt: skip
    return out


def _readable(x: Tensor) -> Tensor:
    return x if x.dtype in INTEGERS else x.float()


def _nonzeros(indices: Tensor, indptr: Tensor) -> Nonzeros:
    """The row and column of each nonzero; the number of them is given, so that the host never waits."""
    rows = torch.arange(len(indptr) - 1, dtype=torch.int32, device=indptr.device)
    return Nonzeros(rows.repeat_interleave(indptr.diff(), output_size=len(indices)), indices, len(indices))


@triton.jit
def _multiply(
    matrix: CsrMatrix, x, out, size: ProductSize, ROWS: tl.constexpr, TOKENS: tl.constexpr, UNROLL: tl.constexpr
):
    # all rows of one block of tokens come before the next block: the activations that they share stay in the cache
    n = size.tokens
    first = (tl.program_id(0) % size.row_blocks) * ROWS
    token = (tl.program_id(0) // size.row_blocks).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    to = out + first.to(tl.int64) * n + token
    for row in range(first, tl.minimum(first + ROWS, size.rows)):
        begin, end = tl.load(matrix.indptr + row), tl.load(matrix.indptr + row + 1)
        total = tl.zeros([TOKENS], dtype=tl.float32) + tl.load(matrix.bias + row).to(tl.float32)
        for i in range(begin, end, UNROLL):
            for j in tl.static_range(UNROLL):
                exists = i + j < end
                value = tl.load(matrix.data + i + j, mask=exists, other=0).to(tl.float32)
                column = tl.load(matrix.indices + i + j, mask=exists, other=0).to(tl.int64)
                inside = token < tl.where(exists, n, 0)
                total += value * tl.load(x + column * n + token, mask=inside, other=0).to(tl.float32)
        tl.store(to, total.to(out.dtype.element_ty), mask=token < n)
        to += n


@triton.jit
def _weight_gradient(nonzeros: Nonzeros, x, grad, out, n, NONZEROS: tl.constexpr, TOKENS: tl.constexpr):
    i = tl.program_id(0) * NONZEROS + tl.arange(0, NONZEROS)
    exists = i < nonzeros.n
    row = tl.load(nonzeros.rows + i, mask=exists, other=0).to(tl.int64) * n
    column = tl.load(nonzeros.columns + i, mask=exists, other=0).to(tl.int64) * n
    total = tl.zeros([NONZEROS, TOKENS], dtype=tl.float32)
    for begin in range(0, n, TOKENS):
        token = begin + tl.arange(0, TOKENS)
        inside = exists[:, None] & (token < n)[None, :]
        d_out = tl.load(grad + row[:, None] + token[None, :], mask=inside, other=0).to(tl.float32)
        total += d_out * tl.load(x + column[:, None] + token[None, :], mask=inside, other=0).to(tl.float32)
    tl.store(out + i, tl.sum(total, axis=1), mask=exists)


@triton.jit
def _gather_rows(tokens, matrix: CsrMatrix, out, n, TOKENS: tl.constexpr, NONZEROS: tl.constexpr):
    position = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    inside = position < n
    token = tl.load(tokens + position, mask=inside, other=0)
    begin = tl.load(matrix.indptr + token, mask=inside, other=0)
    end = tl.load(matrix.indptr + token + 1, mask=inside, other=0)
    longest = tl.max(end - begin, axis=0)
    for j in range(0, longest, NONZEROS):
        i = begin[:, None] + j + tl.arange(0, NONZEROS)[None, :]
        exists = i < end[:, None]
        column = tl.load(matrix.indices + i, mask=exists, other=0).to(tl.int64)
        value = tl.load(matrix.data + i, mask=exists, other=0).to(tl.float32)
        tl.store(out + column * n + position[:, None], value, mask=exists)


@triton.jit
def _gather_gradient(
    nonzeros: Nonzeros, positions: Positions, grad, out, n, NONZEROS: tl.constexpr, POSITIONS: tl.constexpr
):
    i = tl.program_id(0) * NONZEROS + tl.arange(0, NONZEROS)
    exists = i < nonzeros.n
    row = tl.load(nonzeros.rows + i, mask=exists, other=0)
    column = tl.load(nonzeros.columns + i, mask=exists, other=0).to(tl.int64) * n
    begin = tl.load(positions.indptr + row, mask=exists, other=0)
    end = tl.load(positions.indptr + row + 1, mask=exists, other=0)
    longest = tl.max(end - begin, axis=0)
    total = tl.zeros([NONZEROS, POSITIONS], dtype=tl.float32)
    for j in range(0, longest, POSITIONS):
        at = begin[:, None] + j + tl.arange(0, POSITIONS)[None, :]
        inside = at < end[:, None]
        position = tl.load(positions.by_token + at, mask=inside, other=0)
        total += tl.load(grad + column[:, None] + position, mask=inside, other=0).to(tl.float32)
    tl.store(out + i, tl.sum(total, axis=1), mask=exists)

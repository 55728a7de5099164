"""GPU kernels of the products of a sparse matrix and feature-major activations, in Triton; what they compute is said in
`thinwire.engine.spmm.kernels`.

A nonzero weight multiplies a contiguous row of numbers, which is work for the ordinary cores: one program has some rows
of the result, or some nonzeros, and a block of tokens, and adds up in float32 in a fixed order, so that results repeat.
`thinwire.engine.spmm.operators` picks these on CUDA devices. Under TRITON_INTERPRET=1 they run on CPU tensors, for
tests.
"""

# kernels are not typed as Python is
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from thinwire.engine.topk.select import INTEGERS

ROWS = 4
"""Rows of a product that one program computes, one after the other."""
TOKENS = 512
"""Tokens that one program takes at most."""
TOGETHER = 4
"""Nonzeros of a row whose activations are on their way at once."""
NONZEROS = 8
"""Nonzeros whose gradients one program computes."""
GATHERED = (16, 32)
"""Tokens of one program that gathers rows, and how many nonzeros of each it writes at once."""
PLACES = 64
"""Places of a token whose gradients are added at once."""


def multiply(x: Tensor, values: Tensor, bias: Tensor, indices: Tensor, indptr: Tensor) -> Tensor:
    """The matrix [rows, in] times x [in, n], plus bias [rows]: [rows, n] of x's dtype, or else float32.

    x is contiguous; float32 and bfloat16 are read as they are, as are `values` [nonzeros].
    """
    x = _readable(x)
    n_rows, n = len(indptr) - 1, x.shape[1]
    out = torch.empty(n_rows, n, dtype=x.dtype, device=x.device)
    block = min(TOKENS, max(32, triton.next_power_of_2(n)))
    row_blocks = triton.cdiv(n_rows, ROWS)
    if out.numel():
        with torch.cuda.device_of(x):
            _multiply[(row_blocks * triton.cdiv(n, block),)](
                values, indices, indptr, bias, x, out, n_rows, n, row_blocks,
                ROWS=ROWS, TOKENS=block, TOGETHER=TOGETHER, num_warps=max(1, block // 128),
            )  # fmt: skip
    return out


def weight_gradient(indices: Tensor, indptr: Tensor, x: Tensor, grad: Tensor) -> Tensor:
    """The gradient of each value, float32 [nonzeros], from contiguous x [in, n] and the product's grad [rows, n]."""
    x, grad = _readable(x), _readable(grad)
    out = torch.zeros(len(indices), device=x.device)
    block = min(TOKENS // 2, max(32, triton.next_power_of_2(x.shape[1])))
    if out.numel():
        with torch.cuda.device_of(x):
            _weight_gradient[(triton.cdiv(len(indices), NONZEROS),)](
                _row_of_each(indices, indptr), indices, x, grad, out, len(indices), x.shape[1],
                NONZEROS=NONZEROS, TOKENS=block, num_warps=max(1, block // 64),
            )  # fmt: skip
    return out


def gather_rows(tokens: Tensor, values: Tensor, indices: Tensor, indptr: Tensor, width: int) -> Tensor:
    """Rows of the matrix by index [n], as the columns of a float32 matrix [width, n]."""
    n = len(tokens)
    out = torch.zeros(width, n, device=values.device)
    if n and len(values):
        with torch.cuda.device_of(values):
            _gather_rows[(triton.cdiv(n, GATHERED[0]),)](
                tokens, values, indices, indptr, out, n, TOKENS=GATHERED[0], NONZEROS=GATHERED[1], num_warps=4
            )
    return out


def gather_gradient(tokens: Tensor, indices: Tensor, indptr: Tensor, grad: Tensor) -> Tensor:
    """The gradient of each value, float32 [nonzeros], from contiguous grad [width, n] of `gather_rows`."""
    grad = _readable(grad)
    out = torch.zeros(len(indices), device=grad.device)
    in_order, by_token = tokens.sort(stable=True)
    every = torch.arange(len(indptr), dtype=tokens.dtype, device=tokens.device)
    if out.numel() and grad.numel():
        with torch.cuda.device_of(grad):
            _gather_gradient[(triton.cdiv(len(indices), NONZEROS),)](
                _row_of_each(indices, indptr), indices, by_token, torch.searchsorted(in_order, every), grad, out,
                len(indices), grad.shape[1], NONZEROS=NONZEROS, PLACES=PLACES, num_warps=4,
            )  # fmt: skip
    return out


def _readable(x: Tensor) -> Tensor:
    return x if x.dtype in INTEGERS else x.float()


def _row_of_each(indices: Tensor, indptr: Tensor) -> Tensor:
    """Row of each nonzero, int32 [nonzeros]; how many there are is known, so that nothing waits for the device."""
    rows = torch.arange(len(indptr) - 1, dtype=torch.int32, device=indptr.device)
    return rows.repeat_interleave(indptr.diff(), output_size=len(indices))


@triton.jit
def _multiply(
    values, indices, indptr, bias, x, out, n_rows, n, row_blocks,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    # all rows of some tokens come before the next tokens: what they read of x again and again stays in the cache
    first = (tl.program_id(0) % row_blocks) * ROWS
    token = (tl.program_id(0) // row_blocks).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    to = out + first.to(tl.int64) * n + token
    for row in range(first, tl.minimum(first + ROWS, n_rows)):
        begin, end = tl.load(indptr + row), tl.load(indptr + row + 1)
        total = tl.zeros([TOKENS], dtype=tl.float32) + tl.load(bias + row).to(tl.float32)
        for i in range(begin, end, TOGETHER):
            for j in tl.static_range(TOGETHER):
                there = i + j < end
                value = tl.load(values + i + j, mask=there, other=0).to(tl.float32)
                column = tl.load(indices + i + j, mask=there, other=0).to(tl.int64)
                inside = token < tl.where(there, n, 0)
                total += value * tl.load(x + column * n + token, mask=inside, other=0).to(tl.float32)
        tl.store(to, total.to(out.dtype.element_ty), mask=token < n)
        to += n


@triton.jit
def _weight_gradient(rows, indices, x, grad, out, n_nonzeros, n, NONZEROS: tl.constexpr, TOKENS: tl.constexpr):
    i = tl.program_id(0) * NONZEROS + tl.arange(0, NONZEROS)
    there = i < n_nonzeros
    row = tl.load(rows + i, mask=there, other=0).to(tl.int64) * n
    column = tl.load(indices + i, mask=there, other=0).to(tl.int64) * n
    total = tl.zeros([NONZEROS, TOKENS], dtype=tl.float32)
    for begin in range(0, n, TOKENS):
        token = begin + tl.arange(0, TOKENS)
        inside = there[:, None] & (token < n)[None, :]
        given = tl.load(grad + row[:, None] + token[None, :], mask=inside, other=0).to(tl.float32)
        total += given * tl.load(x + column[:, None] + token[None, :], mask=inside, other=0).to(tl.float32)
    tl.store(out + i, tl.sum(total, axis=1), mask=there)


@triton.jit
def _gather_rows(tokens, values, indices, indptr, out, n, TOKENS: tl.constexpr, NONZEROS: tl.constexpr):
    place = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    inside = place < n
    token = tl.load(tokens + place, mask=inside, other=0)
    begin = tl.load(indptr + token, mask=inside, other=0)
    end = tl.load(indptr + token + 1, mask=inside, other=0)
    longest = tl.max(end - begin, axis=0)
    for j in range(0, longest, NONZEROS):
        i = begin[:, None] + j + tl.arange(0, NONZEROS)[None, :]
        there = i < end[:, None]
        column = tl.load(indices + i, mask=there, other=0).to(tl.int64)
        value = tl.load(values + i, mask=there, other=0).to(tl.float32)
        tl.store(out + column * n + place[:, None], value, mask=there)


@triton.jit
def _gather_gradient(
    rows, indices, by_token, token_starts, grad, out, n_nonzeros, n, NONZEROS: tl.constexpr, PLACES: tl.constexpr
):
    i = tl.program_id(0) * NONZEROS + tl.arange(0, NONZEROS)
    there = i < n_nonzeros
    row = tl.load(rows + i, mask=there, other=0)
    column = tl.load(indices + i, mask=there, other=0).to(tl.int64) * n
    begin = tl.load(token_starts + row, mask=there, other=0)
    end = tl.load(token_starts + row + 1, mask=there, other=0)
    longest = tl.max(end - begin, axis=0)
    total = tl.zeros([NONZEROS, PLACES], dtype=tl.float32)
    for j in range(0, longest, PLACES):
        at = begin[:, None] + j + tl.arange(0, PLACES)[None, :]
        inside = at < end[:, None]
        place = tl.load(by_token + at, mask=inside, other=0)
        total += tl.load(grad + column[:, None] + place, mask=inside, other=0).to(tl.float32)
    tl.store(out + i, tl.sum(total, axis=1), mask=there)

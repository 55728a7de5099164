"""GPU kernels for exact selection by magnitude, written in Triton and compiled on first use.

Non-negative floats order as their bit patterns, so the k-th largest magnitude is found by bisecting over the bits, as
in `thinwire.engine.topk.rows`. A row that fits in the registers of one program is read and written once; longer rows
and whole matrices go to `thinwire.engine.gpu.radix`. Nothing waits for the host.

The columns of feature-major activations take the same kernels with other strides: a program holds a few neighbouring
columns, so that what it reads and writes of each row is a whole piece of memory. Turning the matrix to and fro instead
would move it three times, where moving it is what takes the time.

`thinwire.engine.topk.select` picks these on CUDA devices where Triton is installed. Under TRITON_INTERPRET=1 they run
on CPU tensors, slowly, for tests.
"""

# kernels are not typed as Python is
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from thinwire.engine.gpu.radix import BLOCK, MAGNITUDES, keep_long_rows
from thinwire.engine.topk.select import INTEGERS

WIDEST = 32_768
"""Widest row that stays in the registers of one program: the entries that these hold."""
COLUMNS = 8
"""Columns that one program holds at most, where they are long: of float32, what memory moves at once."""
PIECE = 16
"""Bytes of each row that a program must take at least."""


def keep_rows(x: Tensor, k: int, widest: int = WIDEST, block: int = BLOCK) -> Tensor:
    """x [rows, width] with all but the k largest magnitudes of each row set to zero; float32 or bfloat16."""
    x = x.contiguous()
    out = torch.empty_like(x)
    if x.shape[1] <= widest:
        _launch(_keep_rows, (x, out), k)
    else:
        keep_long_rows(x, out, k, None, block)
    return out


def pass_rows(kept: Tensor, grad: Tensor, k: int) -> Tensor:
    """Gradient of `keep_rows` from its result [rows, width] and the gradient of that, of one dtype.

    Kept entries pass; a row with fewer than k nonzeros passes everything. Width is at most WIDEST.
    """
    kept, grad = kept.contiguous(), grad.contiguous()
    out = torch.empty_like(grad)
    _launch(_pass_rows, (kept, grad, out), k)
    return out


def holds_columns(x: Tensor) -> bool:
    """Whether columns of x [width, n] fit in the registers of one program: enough of them, PIECE bytes of each row."""
    return _padded(len(x)) * PIECE <= WIDEST * x.itemsize


def keep_columns(x: Tensor, k: int) -> Tensor:
    """Contiguous x [width, n] with all but the k largest magnitudes of each column set to zero; see `holds_columns`."""
    out = torch.empty_like(x)
    _launch(_keep_rows, (x, out), k, by_column=True)
    return out


def pass_columns(kept: Tensor, grad: Tensor, k: int) -> Tensor:
    """Gradient of `keep_columns` from its result [width, n] and the gradient of that, contiguous and of one dtype."""
    out = torch.empty_like(grad)
    _launch(_pass_rows, (kept, grad, out), k, by_column=True)
    return out


def keep_largest_(
    matrix: Tensor, k: int, reserved: Tensor | None = None, widest: int = WIDEST, block: int = BLOCK
) -> None:
    """Zero all but the k largest magnitudes of a contiguous tensor of any shape, in place.

    `reserved` (bool, same shape, at most k True) marks entries that survive whatever their size.
    """
    row = matrix.view(1, -1)
    if reserved is None and row.shape[1] <= widest:
        _launch(_keep_rows, (row, row), k)
    else:
        keep_long_rows(row, row, k, None if reserved is None else reserved.contiguous(), block)


def _padded(width: int) -> int:
    return max(32, triton.next_power_of_2(width))


def _tile(width: int, side_by_side: int = 1) -> tuple[int, int, int]:
    """Rows of one program, the width rounded up to a power of two, and warps: 32 entries a thread.

    `side_by_side` is how many rows a program takes where so many fit.
    """
    padded = _padded(width)
    together = max(1, 1024 // padded, min(side_by_side, WIDEST // padded))
    return together, padded, together * padded // 1024


def _launch(kernel: Any, matrices: Sequence[Tensor], k: int, by_column: bool = False) -> None:
    """Run a kernel on contiguous matrices of one shape and dtype; to it, columns are rows that lie otherwise."""
    x = matrices[0]
    rows, width = reversed(x.shape) if by_column else x.shape
    strides = (1, rows) if by_column else (width, 1)
    together, padded, warps = _tile(width, COLUMNS if by_column else 1)
    if x.numel():
        with torch.cuda.device_of(x):
            kernel[(triton.cdiv(rows, together),)](
                *(matrix.view(INTEGERS[x.dtype]) for matrix in matrices), rows, width, *strides, k,
                ROWS=together, WIDTH=padded, MAGNITUDE=MAGNITUDES[x.dtype], num_warps=warps,
            )  # fmt: skip


@triton.jit(do_not_specialize=["k"])
def _keep_rows(
    x, out, rows, width, row_stride, column_stride, k,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, MAGNITUDE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    at = row[:, None] * row_stride + column.to(tl.int64)[None, :] * column_stride
    # padding is zeros on the right: it loses every tie
    bits = tl.load(x + at, mask=inside, other=0).to(tl.int32) & MAGNITUDE
    low = tl.zeros([ROWS], dtype=tl.int32)
    high = tl.minimum(tl.max(bits, axis=1), MAGNITUDE - 1) + 1
    reach_low, reach_high = low + WIDTH, low
    middle = tl.maximum(high - (MAGNITUDE >> 6), 0)  # four powers of two below the largest
    halve = False
    while tl.max(high - low, axis=0) > 0:  # the smallest threshold that at most k entries reach
        # the sign of a difference is -1 for each that reaches it: a quarter fewer instructions than comparing
        count = -tl.sum(((middle - 1)[:, None] - bits) >> 31, axis=1)
        reach_low = tl.where(count > k, count, reach_low)
        reach_high = tl.where(count > k, reach_high, count)
        low = tl.where(count > k, middle + 1, tl.where(count == k, middle, low))
        high = tl.where(count > k, high, middle)
        # by interpolation and by halves in turn: half as many rounds as by halves alone, and never many more
        part = (reach_low - k).to(tl.float32) / tl.maximum(reach_low - reach_high, 1).to(tl.float32)
        step = tl.where(halve, (high - low) >> 1, ((high - low).to(tl.float32) * part).to(tl.int32))
        middle = tl.maximum(low, tl.minimum(low + step, high - 1))
        halve = not halve
    keep = bits >= low[:, None]
    missing = k - tl.sum(keep.to(tl.int32), axis=1)
    if tl.max(missing, axis=0) > 0:  # a tie at the threshold
        tied = bits == low[:, None] - 1
        keep = keep | (tied & (tl.cumsum(tied.to(tl.int32), axis=1) <= missing[:, None]))
    # the signs come from the cache, so that they take no registers above; another policy keeps this a load of its own
    values = tl.load(x + at, mask=inside, other=0, eviction_policy="evict_first")
    tl.store(out + at, tl.where(keep, values, 0), mask=inside)


@triton.jit(do_not_specialize=["k"])
def _pass_rows(
    kept, grad, out, rows, width, row_stride, column_stride, k,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, MAGNITUDE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    at = row[:, None] * row_stride + column.to(tl.int64)[None, :] * column_stride
    alive = (tl.load(kept + at, mask=inside, other=0).to(tl.int32) & MAGNITUDE) != 0
    everything = tl.sum(alive.to(tl.int32), axis=1) < k
    tl.store(out + at, tl.where(alive | everything[:, None], tl.load(grad + at, mask=inside, other=0), 0), mask=inside)

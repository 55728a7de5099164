"""GPU kernels for exact selection by magnitude, written in Triton and compiled on first use.

Non-negative floats order as their bit patterns, so the k-th largest magnitude is found by bisecting over the bits, as
in `thinwire.engine.topk.rows`. One program reads and writes a row once if the row fits in its registers. Longer rows
and whole matrices go to `thinwire.engine.gpu.radix`. The host never waits.

Columns of feature-major activations use the same kernels with other strides. A program takes a few neighbouring
columns, so that it reads and writes contiguous memory in each row. Transposing the matrix and its result instead would
move the data three times, and moving data takes most of the time.

`thinwire.engine.topk.select` calls these on CUDA devices where Triton is installed. Under TRITON_INTERPRET=1 they run
on CPU tensors, slowly, for tests.
"""

# pyright does not know the types in Triton kernels
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from thinwire.engine.gpu.radix import BLOCK, MAGNITUDES, keep_long_rows
from thinwire.engine.layout import INTEGERS

WIDEST = 32_768
"""Widest row that fits in the registers of one program, and most entries that a program takes."""
COLUMNS = 8
"""Most columns that one program takes where columns are long: 32 bytes of float32, one memory transaction."""
MIN_ROW_BYTES = 16
"""Fewest bytes of each row that a program for columns must take."""


class Layout(NamedTuple):
    """Sizes of a matrix and its strides in entries. Columns are rows with the strides swapped."""

    rows: int
    width: int
    row_stride: int
    column_stride: int


class Tile(NamedTuple):
    """What one program takes."""

    rows: int
    width: int
    """The width of a row, rounded up to a power of two."""
    warps: int
    """As many as give 32 entries to each thread."""


def keep_rows(x: Tensor, k: int, widest: int = WIDEST, block: int = BLOCK) -> Tensor:
    """x [rows, width] with all but the k largest magnitudes of each row set to zero; float32 or bfloat16.

    Rows wider than `widest` are read in blocks of `block` entries.
    """
    x = x.contiguous()
    out = torch.empty_like(x)
    if x.shape[1] <= widest:
        _launch(_keep_rows, (x, out), k)
    else:
        keep_long_rows(x, out, k, None, block)
    return out


def pass_rows(kept: Tensor, grad: Tensor, k: int) -> Tensor:
    """Gradient [rows, width] of `keep_rows` from its result [rows, width] and the gradient of that, of one dtype.

    Kept entries pass. A row with fewer than k nonzeros passes everything. Width is at most WIDEST.
    """
    kept, grad = kept.contiguous(), grad.contiguous()
    out = torch.empty_like(grad)
    _launch(_pass_rows, (kept, grad, out), k)
    return out


def holds_columns(x: Tensor) -> bool:
    """Whether one program can take columns of x [width, n]: enough of them for MIN_ROW_BYTES of each row."""
    return _padded(len(x)) * MIN_ROW_BYTES <= WIDEST * x.itemsize


def keep_columns(x: Tensor, k: int) -> Tensor:
    """Contiguous x [width, n] with all but the k largest magnitudes of each column set to zero; see `holds_columns`."""
    out = torch.empty_like(x)
    _launch(_keep_rows, (x, out), k, by_column=True)
    return out


def pass_columns(kept: Tensor, grad: Tensor, k: int) -> Tensor:
    """Gradient [width, n] of `keep_columns` from its result [width, n] and the gradient of that.

    Both are contiguous and of one dtype.
    """
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
        keep_long_rows(row, row, k, None if reserved is None else reserved.contiguous().view(1, -1), block)


def _padded(width: int) -> int:
    return max(32, triton.next_power_of_2(width))


def _tile(width: int, most_rows: int) -> Tile:
    """What one program takes of rows of this width: at most `most_rows` of them, or 1024 entries if that is more."""
    padded = _padded(width)
    rows = max(1, 1024 // padded, min(most_rows, WIDEST // padded))
    return Tile(rows, padded, rows * padded // 1024)


def _launch(kernel: Any, matrices: Sequence[Tensor], k: int, by_column: bool = False) -> None:
    """Run a kernel on contiguous matrices of one shape and dtype, by row or by column."""
    x = matrices[0]
    n_rows, n_columns = x.shape
    layout = Layout(n_columns, n_rows, 1, n_columns) if by_column else Layout(n_rows, n_columns, n_columns, 1)
    tile = _tile(layout.width, COLUMNS if by_column else 1)
    if x.numel():
        with torch.cuda.device_of(x):
            kernel[(triton.cdiv(layout.rows, tile.rows),)](
                *(matrix.view(INTEGERS[x.dtype]) for matrix in matrices), layout, k,
                ROWS=tile.rows, WIDTH=tile.width, MAGNITUDE=MAGNITUDES[x.dtype], num_warps=tile.warps,
            )  # fmt: skip


@triton.jit
def _entries(layout: Layout, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Indices of this program's entries [ROWS, WIDTH], and whether they are in the matrix."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < layout.rows)[:, None] & (column < layout.width)[None, :]
    return row[:, None] * layout.row_stride + column.to(tl.int64)[None, :] * layout.column_stride, inside


@triton.jit(do_not_specialize=["k"])
def _keep_rows(x, out, layout: Layout, k, ROWS: tl.constexpr, WIDTH: tl.constexpr, MAGNITUDE: tl.constexpr):
    at, inside = _entries(layout, ROWS, WIDTH)
    # padding is zeros on the right: it loses every tie
    bits = tl.load(x + at, mask=inside, other=0).to(tl.int32) & MAGNITUDE
    low = tl.zeros([ROWS], dtype=tl.int32)
    high = tl.minimum(tl.max(bits, axis=1), MAGNITUDE - 1) + 1
    reach_low, reach_high = low + WIDTH, low
    middle = tl.maximum(high - (MAGNITUDE >> 6), 0)  # four powers of two below the largest
    halve = False
    while tl.max(high - low, axis=0) > 0:  # the smallest threshold that at most k entries reach
        # the sign of the difference is -1 for each entry that reaches it: a quarter fewer instructions than comparing
        count = -tl.sum(((middle - 1)[:, None] - bits) >> 31, axis=1)
        reach_low = tl.where(count > k, count, reach_low)
        reach_high = tl.where(count > k, reach_high, count)
        low = tl.where(count > k, middle + 1, tl.where(count == k, middle, low))
        high = tl.where(count > k, high, middle)
        # alternate interpolation and halving: half as many rounds as halving alone, and never many more
        part = (reach_low - k).to(tl.float32) / tl.maximum(reach_low - reach_high, 1).to(tl.float32)
        step = tl.where(halve, (high - low) >> 1, ((high - low).to(tl.float32) * part).to(tl.int32))
        middle = tl.maximum(low, tl.minimum(low + step, high - 1))
        halve = not halve
    keep = bits >= low[:, None]
    missing = k - tl.sum(keep.to(tl.int32), axis=1)
    if tl.max(missing, axis=0) > 0:  # a tie at the threshold
        tied = bits == low[:, None] - 1
        keep = keep | (tied & (tl.cumsum(tied.to(tl.int32), axis=1) <= missing[:, None]))
    # values are loaded again, from the cache, so that their signs take no registers above; the other eviction policy
    # keeps the compiler from merging the two loads
    values = tl.load(x + at, mask=inside, other=0, eviction_policy="evict_first")
    tl.store(out + at, tl.where(keep, values, 0), mask=inside)


@triton.jit(do_not_specialize=["k"])
def _pass_rows(kept, grad, out, layout: Layout, k, ROWS: tl.constexpr, WIDTH: tl.constexpr, MAGNITUDE: tl.constexpr):
    at, inside = _entries(layout, ROWS, WIDTH)
    alive = (tl.load(kept + at, mask=inside, other=0).to(tl.int32) & MAGNITUDE) != 0
    everything = tl.sum(alive.to(tl.int32), axis=1) < k
    tl.store(out + at, tl.where(alive | everything[:, None], tl.load(grad + at, mask=inside, other=0), 0), mask=inside)

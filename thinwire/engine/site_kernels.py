"""CPU kernels that take feature-major activations from one site to the next: a sparse map, a nonlinearity, AbsTopK.

A tile of tokens passes through all of it while it lies in the cache; only what is left of it is written. A matrix has
compressed rows, as in `thinwire.engine.product_kernels`.
"""

import numpy as np
from numba import prange

from thinwire.engine.ahead import AHEAD, read_ahead, read_inputs_ahead
from thinwire.engine.column_kernels import hold_row, keep_tiles, n_jobs, spread, stretch_of
from thinwire.engine.jit import inner, kernel, making
from thinwire.engine.nonlinearity_kernels import apply
from thinwire.engine.product_kernels import STRETCH, add_row, is_constant
from thinwire.engine.tiles import LANES, MAGNITUDE


@kernel
def map_and_keep(values, columns, starts, bias, x, nonlinearity, k, mean, mask, threads, out, flags, short):
    """out [rows, n] = AbsTopK of the nonlinearity of matrix · x [in, n] + bias, held; as int32 bits of floats.

    Rows are held by `mean` [rows or none] and `mask` [trials, rows or none], and `flags` [rows or none, n] say where
    they were not zero; see `hold_row`. `short` [n] says of which tokens fewer than k numbers are not zero, and is true
    where k is the number of rows.

    Rows that are the same for all tokens are computed once. V others move at most V of these in or out: the k - V
    largest constants stay whatever the others are, and one with k larger constants never does. The constants between
    compete with the V rows for V places; zeros need not.
    """
    rows, n = out.shape
    alike = np.empty(len(x), np.bool_)
    for i in prange(len(x)):
        _look(x, i, alike)
    varies = _varying_rows(columns, starts, alike)
    fixed = _constants(values, columns, starts, bias, x, nonlinearity, varies)
    order = _largest_first(fixed, varies)
    sure = min(max(0, k - np.count_nonzero(varies)), len(order))
    fixed_kept = np.zeros(rows, np.float32)
    fixed_kept[order[:sure]] = fixed[order[:sure]]
    competes = varies.copy()
    competes[order[sure:k]] = True
    competing = np.flatnonzero(competes)
    held = mean, mask, out.view(np.float32), flags
    together = stretch_of(n, threads)
    groups = (n + together - 1) // together
    jobs = n_jobs(groups, threads)
    for job in prange(jobs):
        tiles = np.empty((together // LANES, 2, len(competing), LANES), np.int16)
        made = np.empty(together, np.float32)
        bits = made.view(np.int32)
        for group in range(job * groups // jobs, (job + 1) * groups // jobs):
            begin = group * together
            end = min(n, begin + together)
            _fill(varies, fixed_kept, held, begin, end, out)
            for i in range(len(competing)):
                o = competing[i]
                read_inputs_ahead(columns, starts, competing[min(i + AHEAD, len(competing) - 1)], x, begin, end)
                if varies[o]:
                    _make_row(o, values, columns, starts, bias, x, nonlinearity, begin, end, made)
                else:
                    made[:] = fixed[o]
                _lay_row(bits, end - begin, tiles, i)
            keep_tiles(tiles, competing, k - sure, held, begin, end, out, short)
    if k == rows:
        for t in range(n):
            short[t] = True


@inner
def _make_row(o, values, columns, starts, bias, x, nonlinearity, begin, end, made):
    """Row o of the result for a stretch of tokens, first in `made`; see `map_and_keep`."""
    stretch = made[: end - begin]
    add_row(values, columns, starts[o], starts[o + 1], bias[o], x, stretch, begin)
    apply(nonlinearity, stretch)


@inner
def _lay_row(numbers, n, tiles, i):
    """`spread` for the first n: here, where a slice is not counted."""
    spread(numbers[:n], tiles, i)


@inner
def _look(x, i, alike):
    """Whether row i of x is the same for all tokens; here, where a slice is not counted."""
    read_ahead(x, i + AHEAD, 0, min(STRETCH, x.shape[1]))
    alike[i] = is_constant(x[i])


@making
def _varying_rows(columns, starts, alike):
    """Which rows of a matrix read something that is not `alike` for all tokens: bool [rows]."""
    varies = np.zeros(len(starts) - 1, np.bool_)
    for o in range(len(varies)):
        for i in range(starts[o], starts[o + 1]):
            varies[o] |= not alike[columns[i]]
    return varies


@making
def _constants(values, columns, starts, bias, x, nonlinearity, varies):
    """What the nonlinearity makes of rows that do not vary: [rows], of no meaning in the others."""
    fixed = np.zeros(len(bias), np.float32)
    for o in range(len(bias)):
        if not varies[o]:
            add_row(values, columns, starts[o], starts[o + 1], bias[o], x, fixed[o : o + 1], 0)
    apply(nonlinearity, fixed)
    return fixed


@making
def _largest_first(fixed, varies):
    """The constant rows that are not zero, by falling magnitude, then index."""
    order, n = np.empty(len(fixed), np.int64), 0
    for o in range(len(fixed)):
        order[n] = o
        n += np.int64(not varies[o] and fixed[o] != 0)
    order = order[:n]
    return order[np.argsort(-(fixed.view(np.int32)[order] & np.int32(MAGNITUDE)), kind="mergesort")]


@inner
def _fill(varies, fixed_kept, held, begin, end, out):
    """Write the constant rows of a stretch of tokens; those that compete are written again."""
    numbers = fixed_kept.view(np.int32)
    for o in range(len(varies)):
        if not varies[o]:
            out[o, begin:end] = numbers[o]
            hold_row(o, held, begin, end)

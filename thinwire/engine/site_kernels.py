"""CPU kernels that take feature-major activations from one site to the next: a sparse map, a nonlinearity, AbsTopK.

A tile of tokens passes through all of it while it lies in the cache; only what is left of it is written. A matrix has
compressed rows, as in `thinwire.engine.product_kernels`.
"""

import numpy as np
from numba import prange

from thinwire.engine.ahead import AHEAD, read_ahead, read_inputs_ahead
from thinwire.engine.column_kernels import keep_tile, put_row, trials_of
from thinwire.engine.jit import exact, inlined, inner, kernel, making
from thinwire.engine.nonlinearity_kernels import applied, apply
from thinwire.engine.product_kernels import STRETCH, is_constant
from thinwire.engine.stretches import MAGNITUDE, fence
from thinwire.engine.threshold_search import lay, search_scratch
from thinwire.engine.tiles import TOKENS, empty_tile, is_past, n_jobs, n_tiles, part
from thinwire.engine.vectors import everywhere


@kernel
def map_and_keep(values, columns, starts, bias, x, nonlinearity, k, mean, mask, threads, out, flags, short):
    """out [rows, n] = AbsTopK of the nonlinearity of matrix · x [in, n] + bias, held.

    Rows are held by `mean` [rows or none] and `mask` [trials, rows or none], and `flags` [rows or none, n] say where
    they were not zero; see `trials_of`. `short` [n] says of which tokens fewer than k numbers are not zero, and is true
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
    held, past = (mean, mask, flags), is_past(out)
    tiles = n_tiles(n)
    jobs = n_jobs(tiles, threads)
    for job in prange(jobs):
        tile, constant, scratch = empty_tile(len(competing)), empty_tile(1), search_scratch(len(competing))
        for place in range(job * tiles // jobs, (job + 1) * tiles // jobs):
            begin = place * TOKENS
            end = min(n, begin + TOKENS)
            _put_constants(competes, fixed_kept, held, begin, end, past, constant, out)
            _lay_mapped(
                competing, varies, fixed, values, columns, starts, bias, x, nonlinearity, begin, end, tile, scratch
            )
            keep_tile(tile, competing, k - sure, held, begin, end, past, scratch, out, short)
        fence()
    if k == rows:
        for t in range(n):
            short[t] = True


@inner
def _put_constants(competes, fixed_kept, held, begin, end, past, scratch, out):
    """Write the rows of a stretch that neither vary nor compete."""
    trials = trials_of(held, begin, end)
    for o in range(len(competes)):
        if not competes[o]:
            put_row(everywhere(fixed_kept[o]), o, held, trials, begin, end, past, scratch[0], out)


@inner
def _lay_mapped(rows, varies, fixed, values, columns, starts, bias, x, nonlinearity, begin, end, tile, scratch):
    """Lay a tile of what the nonlinearity makes of some rows, which are `fixed` where they do not vary."""
    for i in range(len(rows)):
        o = rows[i]
        read_inputs_ahead(columns, starts, rows[min(i + AHEAD, len(rows) - 1)], x, begin, end)
        if varies[o]:
            made = applied(nonlinearity, mapped(o, values, columns, starts, bias[o], x, begin, end))
        else:
            made = everywhere(fixed[o])
        lay(tile, i, made, scratch)


@inlined
def mapped(o, values, columns, starts, constant, x, begin, end):
    """A constant and row o of a matrix times x[:, begin:end], a stretch."""
    made = everywhere(constant)
    for place in range(starts[o], starts[o + 1]):
        made += values[place] * part(x[columns[place]], begin, end)
    return made


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
            fixed[o] = _mapped_once(o, values, columns, starts, bias[o], x)
    apply(nonlinearity, fixed)
    return fixed


@exact
def _mapped_once(o, values, columns, starts, constant, x):
    """`mapped` for the first token, in the same order, so that a row is the same whether or not it varies elsewhere."""
    for place in range(starts[o], starts[o + 1]):
        constant += values[place] * x[columns[place], 0]
    return constant


@making
def _largest_first(fixed, varies):
    """The constant rows that are not zero, by falling magnitude, then index."""
    order, n = np.empty(len(fixed), np.int64), 0
    for o in range(len(fixed)):
        order[n] = o
        n += np.int64(not varies[o] and fixed[o] != 0)
    order = order[:n]
    return order[np.argsort(-(fixed.view(np.int32)[order] & np.int32(MAGNITUDE)), kind="mergesort")]

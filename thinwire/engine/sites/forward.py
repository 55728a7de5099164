"""CPU kernel from one site to the next: a sparse map, a nonlinearity, AbsTopK, ablation.

A tile of tokens passes through all of it while it lies in the cache; only what is left of it is written.
"""

import numpy as np
from numba import prange

from thinwire.engine.jit import allocating, device_function, inline_function, kernel, no_reassociation
from thinwire.engine.simd.lanes import MAGNITUDE_BITS
from thinwire.engine.simd.memory import fence
from thinwire.engine.simd.nonlinearities import activate, activate_row
from thinwire.engine.simd.prefetch import DISTANCE, prefetch_inputs, prefetch_read
from thinwire.engine.simd.rows import is_constant
from thinwire.engine.simd.tiles import TOKENS, empty_tile, is_streamed, load_range, n_jobs, n_tiles
from thinwire.engine.simd.vectors import broadcast
from thinwire.engine.sites.records import Rows
from thinwire.engine.topk.ablation import Output
from thinwire.engine.topk.columns import keep_and_store_tile, store_ablated, trials_in_range
from thinwire.engine.topk.threshold import empty_scratch, store_for_search


@kernel
def map_and_keep(matrix, x, nonlinearity, k, threads, ablation, out, short):
    """out [rows, n] = AbsTopK of the nonlinearity of matrix · x [in, n] + bias, ablated.

    short [n] says which tokens have fewer than k nonzeros; all, where k is the number of rows.

    Rows that are the same for all tokens are computed once. V others displace at most V of these: the k - V largest
    constants stay whatever the others are, and a constant below the k largest never enters. The constants between
    compete with the V rows for V places; zeros need not.
    """
    rows, n = out.shape
    streaming = is_streamed(out)
    constant_inputs = np.empty(len(x), np.bool_)
    for i in prange(len(x)):
        _examine(x, i, constant_inputs)
    varies = _varying_rows(matrix, constant_inputs)
    fixed = _constants(matrix, x, nonlinearity, varies)
    order = _largest_first(fixed, varies)
    sure = min(max(0, k - np.count_nonzero(varies)), len(order))
    kept = np.zeros(rows, np.float32)
    kept[order[:sure]] = fixed[order[:sure]]
    competes = varies.copy()
    competes[order[sure:k]] = True
    parts = Rows(np.flatnonzero(competes), competes, varies, fixed, kept)
    tiles = n_tiles(n)
    jobs = n_jobs(tiles, threads)
    for job in prange(jobs):
        width, output = len(parts.competing), Output(out, short, ablation, streaming)
        tile, spare, scratch = empty_tile(width), empty_tile(1), empty_scratch(width)
        for number in range(job * tiles // jobs, (job + 1) * tiles // jobs):
            begin = number * TOKENS
            end = min(n, begin + TOKENS)
            _store_constants(parts, begin, end, spare, output)
            _map_tile(matrix, x, nonlinearity, parts, begin, end, (tile, scratch))
            keep_and_store_tile(tile, parts.competing, k - sure, begin, end, scratch, output)
        fence()
    if k == rows:
        for t in range(n):
            short[t] = True


@device_function
def _store_constants(parts, begin, end, spare, output):
    """Write the rows that do not compete, for the tokens of a tile."""
    trials = trials_in_range(output.ablation, begin, end)
    for o in range(len(parts.competes)):
        if not parts.competes[o]:
            store_ablated(broadcast(parts.kept[o]), o, trials, begin, end, spare[0], output)


@device_function
def _map_tile(matrix, x, nonlinearity, parts, begin, end, scratch):
    """Fill the tile of a (tile, search scratch) with the competing rows, for tokens begin … end - 1."""
    tile, search = scratch
    rows = parts.competing
    for i in range(len(rows)):
        o, ahead = rows[i], rows[min(i + DISTANCE, len(rows) - 1)]
        prefetch_inputs(matrix.indices, matrix.indptr, ahead, x, begin, end)
        if parts.varies[o]:
            y = activate(nonlinearity, map_vector(matrix, o, x, begin, end))
        else:
            y = broadcast(parts.fixed[o])
        store_for_search(tile, i, y, search)


@inline_function
def map_vector(matrix, o, x, begin, end):
    """bias[o] + row o of the matrix · x[:, begin:end], a vector."""
    y = broadcast(matrix.bias[o])
    for i in range(matrix.indptr[o], matrix.indptr[o + 1]):
        y += matrix.values[i] * load_range(x[matrix.indices[i]], begin, end)
    return y


@device_function
def _examine(x, i, is_constant_row):
    """Note whether row i of x is constant; a function of its own, where a slice takes no reference count."""
    prefetch_read(x, i + DISTANCE, 0, min(TOKENS, x.shape[1]))
    is_constant_row[i] = is_constant(x[i])


@allocating
def _varying_rows(matrix, constant_inputs):
    """Which rows of the result read an input that is not constant: bool [rows]."""
    varies = np.zeros(len(matrix.bias), np.bool_)
    for o in range(len(varies)):
        for i in range(matrix.indptr[o], matrix.indptr[o + 1]):
            varies[o] |= not constant_inputs[matrix.indices[i]]
    return varies


@allocating
def _constants(matrix, x, nonlinearity, varies):
    """The values of the rows that do not vary: [rows], zero for the others."""
    fixed = np.zeros(len(varies), np.float32)
    for o in range(len(varies)):
        if not varies[o]:
            fixed[o] = _map_first_token(matrix, o, x)
    activate_row(nonlinearity, fixed)
    return fixed


@no_reassociation
def _map_first_token(matrix, o, x):
    """`map_vector` for the first token, in the same order: a row has the same value whether or not others vary."""
    y = matrix.bias[o]
    for i in range(matrix.indptr[o], matrix.indptr[o + 1]):
        y += matrix.values[i] * x[matrix.indices[i], 0]
    return y


@allocating
def _largest_first(fixed, varies):
    """The constant rows that are not zero, by falling magnitude, then index."""
    order, n = np.empty(len(fixed), np.int64), 0
    for o in range(len(fixed)):
        order[n] = o
        n += np.int64(not varies[o] and fixed[o] != 0)
    order = order[:n]
    return order[np.argsort(-(fixed.view(np.int32)[order] & np.int32(MAGNITUDE_BITS)), kind="mergesort")]

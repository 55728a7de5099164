"""CPU kernel backward from one site to the one before: ablation, AbsTopK, a nonlinearity, a sparse map.

Row by row, a vector of tokens passes through all of it in registers; the sums for the gradient of the input lie in the
cache meanwhile.
"""

import numpy as np
from numba import prange

from thinwire.engine.jit import device_function, inline_function, kernel
from thinwire.engine.simd.lanes import nonzero_lanes, sum_lanes, where_either
from thinwire.engine.simd.memory import CACHE_LINE, fence, load, store
from thinwire.engine.simd.nonlinearities import GELU, RELU, activate, gelu_gradient
from thinwire.engine.simd.prefetch import DISTANCE, prefetch_inputs, prefetch_read, prefetch_write
from thinwire.engine.simd.tiles import (
    FLOAT_BYTES,
    TOKENS,
    empty_tile,
    is_streamed,
    load_flag_range,
    load_range,
    n_jobs,
    store_range,
    token_range,
)
from thinwire.engine.simd.vectors import broadcast
from thinwire.engine.sites.forward import map_vector

ZERO, ONE = np.float32(0), np.float32(1)


@kernel
def map_and_keep_backward(matrix, transposed, x, nonlinearity, site, threads, gradients):
    """Gradients of `forward.map_and_keep`: see `SiteResult` and `SiteGradients`.

    `transposed` is the matrix by column, with a bias of zeros. x [in, n] may be empty unless the nonlinearity is GELU
    or something is ablated.
    """
    d_x = gradients.x
    trials, tiles = gradients.mask.shape[:2]
    rows, n = len(site.kept), site.kept.shape[1] // trials
    groups = trials * tiles
    jobs, gathers = n_jobs(groups, threads), len(d_x) > rows
    streaming = is_streamed(d_x) and n * FLOAT_BYTES % CACHE_LINE == 0  # a trial begins a cache line
    for job in prange(jobs):
        tile, spare, passes = empty_tile(rows if gathers else len(d_x)), empty_tile(1), np.empty(rows, np.bool_)
        for group in range(job * groups // jobs, (job + 1) * groups // jobs):
            tokens = *token_range(group, n * trials, trials, tiles), group // tiles, group % tiles
            _tile_backward(matrix, x, nonlinearity, site, tokens, (tile, spare, passes), gathers, gradients)
            if gathers:
                _gather_tile(transposed, tile, tokens[0], tokens[1], streaming, d_x)
            else:
                _store_tile(tile, tokens[0], tokens[1], streaming, d_x)
        fence()


@device_function
def _tile_backward(matrix, x, nonlinearity, site, tokens, scratch, gathers, gradients):
    """`map_and_keep_backward` for the tokens (begin, end, trial, tile of the trial).

    The tile of the scratch (tile, spare row, whether a row has a gradient) becomes the gradient of the input of the
    nonlinearity where `gathers`, otherwise that of the input.
    """
    begin, end, trial, number = tokens
    tile, spare, passes = scratch
    sums, zero, mask = gradients.mask[trial, number], broadcast(ZERO), site.mask[trial]
    learns = len(sums) > 0
    # short tokens pass gradients to zeros too; those of ReLU have none
    short = zero if nonlinearity == RELU else load_flag_range(site.short, begin, end, spare)
    for c in range(0 if gathers else len(tile)):
        store(tile[c], 0, zero)
    for o in range(-DISTANCE, len(site.kept)):
        _prefetch_row(matrix, x, nonlinearity, o + DISTANCE, site, tokens, passes)
        if o < 0:
            continue
        by, d_mapped = mask[o] if len(mask) > 0 else ONE, zero
        if learns and not passes[o]:
            sums[o] = 0
        if passes[o] and (by != 0 or learns):
            grad, mapped = load_range(site.grad[o], begin, end), zero
            if by != 1 or nonlinearity == GELU:
                mapped = map_vector(matrix, o, x, begin, end)
            if by == 1:
                row = is_kept = load_range(site.kept[o], begin, end)
            else:  # what was kept before the ablation
                is_kept = load_flag_range(site.flags[o], begin, end, spare)
                row = where_either(activate(nonlinearity, mapped), is_kept, zero)
            if learns:
                sums[o] = sum_lanes(grad * (row - site.values[o]))
            d_mapped = where_either(by * grad, is_kept, short)
            if nonlinearity == GELU:
                d_mapped = d_mapped * gelu_gradient(mapped)
            if by != 0 and not gathers and len(tile) > 0:
                _scatter_row(matrix, o, d_mapped, tile)
        if by == 0:
            d_mapped = zero
        if gathers:
            store(tile[o], 0, d_mapped)
        if len(gradients.mapped) > 0:
            store_range(d_mapped, begin, end, False, gradients.mapped[o])


@inline_function
def _prefetch_row(matrix, x, nonlinearity, o, site, tokens, passes):
    """Note whether row o has a gradient; if so, prefetch what it needs. Prefetch the gradient of a later row."""
    begin, end, trial, _ = tokens
    mask = site.mask[trial]
    prefetch_read(site.grad, o + DISTANCE, begin, end)
    if o < len(site.kept):
        passes[o] = nonzero_lanes(load_range(site.grad[o], begin, end)) != 0
        if passes[o]:
            is_free = len(mask) == 0 or mask[o] == 1
            if is_free:
                prefetch_read(site.kept, o, begin, end)
            if nonlinearity == GELU or not is_free:
                prefetch_inputs(matrix.indices, matrix.indptr, o, x, begin, end)


@inline_function
def _scatter_row(matrix, o, d_mapped, tile):
    """tile[index] += value · vector, for the nonzeros of row o."""
    for i in range(matrix.indptr[o], matrix.indptr[o + 1]):
        row = tile[matrix.indices[i]]
        store(row, 0, load(row, 0) + matrix.values[i] * d_mapped)


@device_function
def _store_tile(tile, begin, end, streaming, d_x):
    """d_x[:, begin:end] = the tile."""
    for c in range(len(d_x)):
        if not streaming:
            prefetch_write(d_x, c + DISTANCE, begin, end)
        store_range(load(tile[c], 0), begin, end, streaming, d_x[c])


@device_function
def _gather_tile(transposed, tile, begin, end, streaming, d_x):
    """d_x[:, begin:end] = the transposed matrix · the tile."""
    for c in range(len(d_x)):
        if not streaming:
            prefetch_write(d_x, c + DISTANCE, begin, end)
        store_range(map_vector(transposed, c, tile, 0, TOKENS), begin, end, streaming, d_x[c])

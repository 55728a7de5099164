"""CPU kernels of how a sublayer reads the residual stream: RMSNorm, AbsTopK, ablation; forward and backward."""

import numpy as np
from numba import prange

from thinwire.engine.jit import device_function, kernel
from thinwire.engine.simd.lanes import sum_lanes, where_either
from thinwire.engine.simd.memory import CACHE_LINE, fence, load, store
from thinwire.engine.simd.prefetch import DISTANCE, prefetch_read
from thinwire.engine.simd.tiles import (
    FLOAT_BYTES,
    TOKENS,
    empty_tile,
    is_streamed,
    load_flag_range,
    load_range,
    n_jobs,
    n_tiles,
    store_range,
    token_range,
)
from thinwire.engine.simd.vectors import broadcast
from thinwire.engine.sites.pointwise_kernels import scales_of_squares
from thinwire.engine.topk.ablation import Output
from thinwire.engine.topk.columns import keep_and_store_tile
from thinwire.engine.topk.threshold import empty_scratch, store_for_search


@kernel
def norm_and_keep(x, norm, k, threads, ablation, out, short):
    """out [width, n] = AbsTopK of x [width, n] · scales [n] · gain [width], ablated: see `Norm`.

    short [n] says which tokens have fewer than k nonzeros; all, where k is the width.
    """
    width, n = out.shape
    streaming = is_streamed(out)
    every = np.arange(width)
    tiles = n_tiles(n)
    jobs = n_jobs(tiles, threads)
    for job in prange(jobs):
        tile, squares, scratch = empty_tile(width), empty_tile(1)[0], empty_scratch(width)
        output = Output(out, short, ablation, streaming)
        for number in range(job * tiles // jobs, (job + 1) * tiles // jobs):
            begin = number * TOKENS
            end = min(n, begin + TOKENS)
            _load_tile(x, begin, end, squares, tile)
            scales_of_squares(squares, width, norm.epsilon, norm.scales[begin:end])
            norm_tile(tile, norm.gain, load_range(norm.scales, begin, end), scratch, tile)
            keep_and_store_tile(tile, every, k, begin, end, scratch, output)
        fence()
    if k == width:
        for t in range(n):
            short[t] = True


@device_function
def _load_tile(x, begin, end, squares, tile):
    """tile = x[:, begin:end]; squares = the sum of squares of each token."""
    total = broadcast(np.float32(0))
    for i in range(len(x)):
        prefetch_read(x, i + DISTANCE, begin, end)
        row = load_range(x[i], begin, end)
        total += row * row
        store(tile[i], 0, row)
    store(squares, 0, total)


@device_function
def norm_tile(tile, gain, scale, scratch, out):
    """out = tile · scale of each token · gain, prepared for a search; further rows of `out` stay as they are."""
    for i in range(len(tile)):
        store_for_search(out, i, load(tile[i], 0) * scale * gain[i], scratch)


@kernel
def norm_and_keep_backward(x, gain, scales, site, threads, d_x, d_mask):
    """Gradients of `norm_and_keep`: see `SiteResult`.

    d_x [width or 0, n] is that of the input, d_mask [trials, tiles, width or 0] that of the ablation mask from each
    tile of a trial; either is empty where it is not needed.
    """
    trials, tiles = d_mask.shape[:2]
    width, n = len(site.kept), site.kept.shape[1] // trials
    groups = trials * tiles
    jobs = n_jobs(groups, threads)
    streaming = is_streamed(d_x) and n * FLOAT_BYTES % CACHE_LINE == 0  # a trial begins a cache line
    for job in prange(jobs):
        scratch = empty_tile(width), empty_tile(width), empty_tile(1)
        for group in range(job * groups // jobs, (job + 1) * groups // jobs):
            begin, end = token_range(group, n * trials, trials, tiles)
            trial, sums = group // tiles, d_mask[group // tiles, group % tiles]
            scale = load_range(scales, begin, end)
            along = _tile_backward(x, gain, scale, site, (begin, end, trial), scratch, sums)
            for i in range(len(d_x)):
                d_row = scale * (load(scratch[0][i], 0) - load(scratch[1][i], 0) * along)
                store_range(d_row, begin, end, streaming, d_x[i])
        fence()


@device_function
def _tile_backward(x, gain, scale, site, tokens, scratch, sums):
    """Fill scratch tiles with the gradient of the normed input times the gain, and with x.

    Returns the part of that gradient along x, by which the norm reduces it; `sums` become gradients of the mask.
    """
    begin, end, trial = tokens
    d_normed, inputs, spare = scratch
    mask, zero, short = site.mask[trial], broadcast(np.float32(0)), load_flag_range(site.short, begin, end, spare)
    along = zero
    for i in range(len(site.kept)):
        for rows in (x, site.kept, site.grad):
            prefetch_read(rows, i + DISTANCE, begin, end)
        by, grad = mask[i] if len(mask) > 0 else np.float32(1), load_range(site.grad[i], begin, end)
        row = load_range(x[i], begin, end)
        if by == 1:
            value = is_kept = load_range(site.kept[i], begin, end)
        else:  # what was kept before the ablation
            is_kept = load_flag_range(site.flags[i], begin, end, spare)
            value = where_either(row * scale * gain[i], is_kept, zero)
        if len(sums) > 0:
            sums[i] = sum_lanes(grad * (value - site.values[i]))
        grad = where_either(by * gain[i] * grad, is_kept, short) if by != 0 else zero
        along += row * grad
        store(d_normed[i], 0, grad)
        store(inputs[i], 0, row)
    return along * scale * scale * (np.float32(1) / np.float32(len(x)))

"""CPU kernels of how a sublayer reads the residual stream, feature by feature: RMSNorm, AbsTopK, holding; and back."""

import numpy as np
from numba import prange

from thinwire.engine.ahead import AHEAD, read_ahead
from thinwire.engine.column_kernels import keep_tile
from thinwire.engine.jit import inner, kernel, summing
from thinwire.engine.pointwise_kernels import scale_of_squares
from thinwire.engine.product_kernels import clear
from thinwire.engine.stretches import fence, store_stretch, stretch
from thinwire.engine.threshold_search import search_scratch
from thinwire.engine.tiles import TOKENS, empty_tile, is_past, n_jobs, n_tiles, part
from thinwire.engine.vectors import everywhere


@kernel
def norm_and_keep(x, gain, epsilon, k, mean, mask, threads, out, flags, short, scales):
    """out [width, n] = AbsTopK of x · scales [n] · gain [width], held.

    Scales are as in `rms_norm`, the other arguments as in `map_and_keep`.
    """
    width, n = out.shape
    held, past, every = (mean, mask, flags), is_past(out), np.arange(width)
    tiles = n_tiles(n)
    jobs = n_jobs(tiles, threads)
    for job in prange(jobs):
        tile, squares, scratch = empty_tile(width), empty_tile(1)[0], search_scratch()
        for place in range(job * tiles // jobs, (job + 1) * tiles // jobs):
            begin = place * TOKENS
            end = min(n, begin + TOKENS)
            _lay_out(x, begin, end, squares, tile)
            scale_of_squares(squares, width, epsilon, scales[begin:end])
            _norm(tile, gain, part(scales, begin, end))
            keep_tile(tile, every, k, held, begin, end, past, scratch, out, short)
        fence()
    if k == width:
        for t in range(n):
            short[t] = True


@inner
def _lay_out(x, begin, end, squares, tile):
    """Make a tile of a stretch of all rows, and add up its squares, lane by lane."""
    total = everywhere(np.float32(0))
    for i in range(len(x)):
        read_ahead(x, i + AHEAD, begin, end)
        given = part(x[i], begin, end)
        total += given * given
        store_stretch(tile[i], 0, given)
    store_stretch(squares, 0, total)


@inner
def _norm(tile, gain, scale):
    """What the norm makes of a tile, in its place."""
    for i in range(len(tile)):
        store_stretch(tile[i], 0, stretch(tile[i], 0) * scale * gain[i])


@summing
def norm_and_keep_backward(x, gain, scales, kept, mean, mask, flags, short, grad, threads, d_x, d_mask):
    """Gradients of `norm_and_keep` with respect to the input [width or none, n] and the mask [trials, width or none].

    They are from `grad` of its result `kept`. Threads take whole rows, which lie in memory one behind the other:
    first to add up how far the gradient goes along x, then to write what is left.
    """
    width, n = kept.shape
    chunks = min(width, threads)
    along = np.zeros((chunks, n), np.float32)
    for chunk in prange(chunks):
        passed = np.empty(n, np.float32)
        for i in range(chunk * width // chunks, (chunk + 1) * width // chunks):
            if len(d_x) > 0:
                _pass_kept(kept, mask, flags, short, grad, i, passed)
                _add_products(x, passed, gain[i], i, along[chunk])
            if d_mask.shape[1] > 0:
                _to_mask(x, gain, scales, kept, mean, mask, flags, grad, i, d_mask)
    _add_up(along, scales, np.float32(width))
    for chunk in prange(chunks):
        passed = np.empty(n, np.float32)
        for i in range(chunk * len(d_x) // chunks, (chunk + 1) * len(d_x) // chunks):
            _pass_kept(kept, mask, flags, short, grad, i, passed)
            _pass_norm(x, gain[i], scales, along[0], passed, i, d_x)


@inner
def _pass_kept(kept, mask, flags, short, grad, i, out):
    """The gradient of row i before it was held: where it was not zero, and where all passes."""
    trials, free = mask.shape[0], mask.shape[1] == 0
    n = kept.shape[1] // trials
    for trial in range(trials):
        begin, end = trial * n, (trial + 1) * n
        given, every, made = grad[i, begin:end], short[begin:end], out[begin:end]
        by = np.float32(1) if free else mask[trial, i]
        if by == 1:
            row = kept[i, begin:end]
            for t in range(n):
                made[t] = given[t] if row[t] != 0 or every[t] else np.float32(0)
        elif by == 0:
            clear(made)
        else:
            flag = flags[i, begin:end]
            for t in range(n):
                made[t] = by * given[t] if flag[t] != 0 or every[t] else np.float32(0)


@inner
def _add_products(x, passed, by, i, along):
    """along += row i of x times the gradient of what is normed."""
    row = x[i]
    for t in range(len(along)):
        along[t] += row[t] * (passed[t] * by)


@inner
def _to_mask(x, gain, scales, kept, mean, mask, flags, grad, i, d_mask):
    """The gradient of the mask of row i: that of what is held times what holding takes away."""
    n, constant, by = kept.shape[1] // len(mask), mean[i], gain[i]
    for trial in range(len(mask)):
        begin, end = trial * n, (trial + 1) * n
        given, total = grad[i, begin:end], np.float32(0)
        if mask[trial, i] == 1:
            row = kept[i, begin:end]
            for t in range(n):
                total += given[t] * (row[t] - constant)
        else:
            row, scale, flag = x[i, begin:end], scales[begin:end], flags[i, begin:end]
            for t in range(n):
                total += given[t] * ((row[t] * scale[t] * by if flag[t] != 0 else np.float32(0)) - constant)
        d_mask[trial, i] = total


@inner
def _add_up(along, scales, width):
    """The first row becomes the sum of all, times what the norm makes of it."""
    total = along[0]
    for chunk in range(1, len(along)):
        row = along[chunk]
        for t in range(len(total)):
            total[t] += row[t]
    for t in range(len(total)):
        total[t] *= scales[t] * scales[t] / width


@inner
def _pass_norm(x, by, scales, along, passed, i, d_x):
    """The gradient of row i of the input."""
    row, made = x[i], d_x[i]
    for t in range(len(made)):
        made[t] = scales[t] * (passed[t] * by - row[t] * along[t])

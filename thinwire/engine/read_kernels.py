"""CPU kernels of how a sublayer reads the residual stream, feature by feature: RMSNorm, AbsTopK, holding; and back."""

import numpy as np
from numba import prange

from thinwire.engine.ahead import AHEAD, read_ahead
from thinwire.engine.column_kernels import keep_tiles, n_jobs, spread, stretch_of
from thinwire.engine.jit import inner, kernel, summing
from thinwire.engine.pointwise_kernels import scale_block
from thinwire.engine.product_kernels import clear
from thinwire.engine.tiles import LANES


@kernel
def norm_and_keep(x, gain, epsilon, k, mean, mask, threads, out, flags, short, scales):
    """out [width, n] = AbsTopK of x · scales [n] · gain [width], held; as int32 bits of floats.

    Scales are as in `rms_norm`, the other arguments as in `map_and_keep`.
    """
    width, n = out.shape
    held = mean, mask, out.view(np.float32), flags
    together, every = stretch_of(n, threads), np.arange(width)
    groups = (n + together - 1) // together
    jobs = n_jobs(groups, threads)
    for job in prange(jobs):
        tiles = np.empty((together // LANES, 2, width, LANES), np.int16)
        made = np.empty(together, np.float32)
        bits = made.view(np.int32)
        for group in range(job * groups // jobs, (job + 1) * groups // jobs):
            begin = group * together
            end = min(n, begin + together)
            scale_block(x, epsilon, begin, end, scales)
            _lay_normed(x, gain, scales, begin, end, made, bits, tiles)
            keep_tiles(tiles, every, k, held, begin, end, out, short)
    if k == width:
        for t in range(n):
            short[t] = True


@inner
def _lay_normed(x, gain, scales, begin, end, made, bits, tiles):
    """Lay a stretch of all rows out over the tiles, normed; `made` and `bits` are one scratch."""
    scale = scales[begin:end]
    for i in range(len(x)):
        read_ahead(x, i + AHEAD, begin, end)
        row, by = x[i, begin:end], gain[i]
        for t in range(len(row)):
            made[t] = row[t] * scale[t] * by
        spread(bits[: end - begin], tiles, i)


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

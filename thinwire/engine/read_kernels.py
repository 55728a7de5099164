"""CPU kernels of how a sublayer reads the residual stream, feature by feature: RMSNorm, AbsTopK, holding; and back."""

import numpy as np
from numba import prange

from thinwire.engine.ahead import AHEAD, read_ahead
from thinwire.engine.column_kernels import keep_tile
from thinwire.engine.jit import inner, kernel
from thinwire.engine.pointwise_kernels import scale_of_squares
from thinwire.engine.stretches import LINE, fence, store_stretch, stretch, total, where
from thinwire.engine.threshold_search import lay, search_scratch
from thinwire.engine.tiles import NUMBER, TOKENS, empty_tile, flags_part, is_past, n_jobs, n_tiles, part, put, tokens_of
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
        tile, squares, scratch = empty_tile(width), empty_tile(1)[0], search_scratch(width)
        for place in range(job * tiles // jobs, (job + 1) * tiles // jobs):
            begin = place * TOKENS
            end = min(n, begin + TOKENS)
            _copy(x, begin, end, squares, tile)
            scale_of_squares(squares, width, epsilon, scales[begin:end])
            norm(tile, gain, part(scales, begin, end), scratch, tile)
            keep_tile(tile, every, k, held, begin, end, past, scratch, out, short)
        fence()
    if k == width:
        for t in range(n):
            short[t] = True


@inner
def _copy(x, begin, end, squares, tile):
    """Make a tile of a stretch of all rows, and add up its squares, lane by lane; it is not laid yet."""
    total = everywhere(np.float32(0))
    for i in range(len(x)):
        read_ahead(x, i + AHEAD, begin, end)
        given = part(x[i], begin, end)
        total += given * given
        store_stretch(tile[i], 0, given)
    store_stretch(squares, 0, total)


@inner
def norm(tile, gain, scale, scratch, made):
    """Lay what the norm makes of a tile in another, or in its place; that may have more rows, which stay."""
    for i in range(len(tile)):
        lay(made, i, stretch(tile[i], 0) * scale * gain[i], scratch)


@kernel
def norm_and_keep_backward(x, gain, scales, kept, mean, mask, flags, short, grad, threads, d_x, d_mask):
    """Gradients of `norm_and_keep`, from `grad` of its result `kept`, both [width, n].

    d_x [width or none, n] is that of the input, d_mask [trials, stretches, width or none] that of the mask from each
    stretch of TOKENS of a trial.
    """
    trials, stretches = d_mask.shape[:2]
    width, n = len(kept), kept.shape[1] // trials
    groups = trials * stretches
    jobs = n_jobs(groups, threads)
    past = is_past(d_x) and n * NUMBER % LINE == 0  # where a trial begins as well
    for job in prange(jobs):
        passed, given, spare = empty_tile(width), empty_tile(width), empty_tile(1)
        for group in range(job * groups // jobs, (job + 1) * groups // jobs):
            trial = group // stretches
            begin, end = tokens_of(group, n * trials, trials, stretches)
            of_read = kept, mean, mask[trial], flags, short, grad
            sums = d_mask[trial, group % stretches]
            _pass_stretch(x, gain, scales, of_read, begin, end, past, passed, given, spare, d_x, sums)
        fence()


@inner
def _pass_stretch(x, gain, scales, of_read, begin, end, past, passed, given, spare, d_x, sums):
    """`norm_and_keep_backward` for a stretch; two tiles are for what AbsTopK passes, times the gain, and for x.

    `of_read` are what was kept, mean, mask of the trial, flags, `short` and the gradient; `spare`, a row, is for what
    has to lie in memory.
    """
    kept, mean, mask, flags, short, grad = of_read
    nothing, scale, every = everywhere(np.float32(0)), part(scales, begin, end), flags_part(short, begin, end, spare)
    along = nothing
    for i in range(len(kept)):
        for rows in (x, kept, grad):
            read_ahead(rows, i + AHEAD, begin, end)
        by, moved, row = mask[i] if len(mask) > 0 else np.float32(1), part(grad[i], begin, end), part(x[i], begin, end)
        if by == 1:
            value = is_kept = part(kept[i], begin, end)
        else:  # what was kept before it was held
            is_kept = flags_part(flags[i], begin, end, spare)
            value = where(row * scale * gain[i], is_kept, nothing)
        if len(sums) > 0:
            sums[i] = total(moved * (value - mean[i]))
        moved = where(by * gain[i] * moved, is_kept, every) if by != 0 else nothing
        along += row * moved
        store_stretch(passed[i], 0, moved)
        store_stretch(given[i], 0, row)
    along = along * scale * scale * (np.float32(1) / np.float32(len(x)))
    for i in range(len(d_x)):
        put(scale * (stretch(passed[i], 0) - stretch(given[i], 0) * along), begin, end, past, d_x[i])

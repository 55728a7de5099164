"""CPU kernels of AbsTopK, and holding rows, on feature-major activations, int32 bits of floats [width, n]."""

import numpy as np
from numba import prange

from thinwire.engine.ahead import AHEAD, read_ahead, write_ahead
from thinwire.engine.jit import inner, kernel, making
from thinwire.engine.lanes import COUNT, THRESHOLD, select
from thinwire.engine.tiles import (
    GROUP,
    LANES,
    LOWER,
    MAGNITUDE,
    UPPER,
    drop_ties,
    nonzeros,
    split,
    whole,
)


@kernel
def keep_columns(x, k, threads, out):
    """Zero all but the k largest magnitudes of each column of x into out."""
    width, n = x.shape
    held = np.empty(0, np.float32), np.empty((1, 0), np.float32), out.view(np.float32), np.empty((0, n), np.int8)
    together = stretch_of(n, threads)
    groups = (n + together - 1) // together
    jobs = n_jobs(groups, threads)
    short, every = np.empty(n, np.bool_), np.arange(width)
    for job in prange(jobs):
        tiles = np.empty((together // LANES, 2, width, LANES), np.int16)
        for group in range(job * groups // jobs, (job + 1) * groups // jobs):
            begin = group * together
            end = min(n, begin + together)
            _lay_out(x, begin, end, tiles)
            keep_tiles(tiles, every, k, held, begin, end, out, short)


@inner
def _lay_out(x, begin, end, tiles):
    """Spread a stretch of all rows."""
    for i in range(len(x)):
        read_ahead(x, i + AHEAD, begin, end)
        spread(x[i, begin:end], tiles, i)


@inner
def stretch_of(n, threads):
    """How many tokens a thread takes at once, of n: whole tiles, and few enough that all threads have some."""
    tiles = (n + LANES - 1) // LANES
    return LANES * max(1, min(GROUP, tiles // threads))


@inner
def n_jobs(groups, threads):
    """In how many parts threads share groups of work: a few each, since every part makes its own scratch."""
    return min(groups, 2 * threads)


@inner
def spread(row, tiles, i):
    """Lay a stretch of row i out over the tiles."""
    for tile in range((len(row) + LANES - 1) // LANES):
        split(row[tile * LANES : (tile + 1) * LANES], tiles[tile, UPPER, i], tiles[tile, LOWER, i])


@making
def keep_tiles(tiles, rows, k, held, begin, end, out, short):
    """out[rows, begin:end] = what AbsTopK keeps of the tiles, one stretch of tokens, then held; other rows of out stay.

    `held` are as in `hold_row`. short[begin:end] says of which fewer than k numbers are not zero: all are kept, and a
    gradient passes everywhere.
    """
    width = tiles.shape[2]
    used = (end - begin + LANES - 1) // LANES
    thresholds, missing = np.zeros((GROUP, LANES), np.int32), np.zeros((GROUP, LANES), np.int32)
    if k < width:
        for tile in range(used):
            state = select(tiles[tile], k, min(LANES, end - begin - tile * LANES))
            thresholds[tile] = state[THRESHOLD]
            missing[tile] = k - state[COUNT]
    else:
        for tile in range(used):
            missing[tile] = k - nonzeros(tiles[tile])
    for tile in range(used):
        first = begin + tile * LANES
        for lane in range(min(end - first, LANES)):
            short[first + lane] = missing[tile, lane] > 0 and thresholds[tile, lane] <= 1
            if missing[tile, lane] > 0 and thresholds[tile, lane] > 1:  # zeros need not be written
                thresholds[tile, lane] -= 1
                drop_ties(tiles[tile], lane, thresholds[tile, lane], missing[tile, lane])
    _write(tiles, rows, thresholds, held, begin, end, out)


@inner
def _write(tiles, rows, thresholds, held, begin, end, out):
    """Write the numbers of the tiles that reach the thresholds of their tokens, and zeros for the others."""
    for i in range(len(rows)):
        o = rows[i]
        write_ahead(out, rows[min(i + AHEAD, len(rows) - 1)], begin, end)
        row = out[o, begin:end]
        for tile in range((len(row) + LANES - 1) // LANES):
            made, least = row[tile * LANES : (tile + 1) * LANES], thresholds[tile]
            upper, lower = tiles[tile, UPPER, i], tiles[tile, LOWER, i]
            for lane in range(len(made)):
                number = whole(upper[lane], lower[lane])
                made[lane] = number if (number & np.int32(MAGNITUDE)) >= least[lane] else np.int32(0)
        hold_row(o, held, begin, end)


@inner
def hold_row(o, held, begin, end):
    """Move a stretch of row o towards its mean where the mask of a trial is not 1, all the way where 0.

    `held` are mean [width], mask [trials, width], the rows [width, n], whose tokens lie trial by trial, and flags
    [width, n] that say where such a row was not zero. The mask may have no nodes, which then are not held; there may be
    no flags.
    """
    mean, mask, rows, flags = held
    if mask.shape[1] == 0:
        return
    n = rows.shape[1] // len(mask)
    for trial in range(begin // n, (end - 1) // n + 1):
        by, constant = mask[trial, o], mean[o]
        if by == 1:
            continue
        first, last = max(begin, trial * n), min(end, (trial + 1) * n)
        row = rows[o, first:last]
        if len(flags) > 0:
            flag = flags[o, first:last]
            for t in range(len(row)):
                flag[t] = np.int8(row[t] != 0)
        if by == 0:
            row[:] = constant
        else:
            for t in range(len(row)):
                row[t] = constant + by * (row[t] - constant)


@kernel
def pass_columns(kept, grad, out, k):
    """Gradient of keep_columns; a column with fewer than k nonzeros passes everything."""
    n = kept.shape[1]
    for place in prange((n + LANES - 1) // LANES):
        nonzero = np.zeros(LANES, np.int32)
        _pass_tile(kept, grad, k, place * LANES, min(n, (place + 1) * LANES), nonzero, out)


@inner
def _pass_tile(kept, grad, k, begin, end, nonzero, out):
    """`pass_columns` for a tile; `nonzero` counts, and is given as zeros."""
    for i in range(len(kept)):
        read_ahead(kept, i + AHEAD, begin, end)
        row = kept[i, begin:end]
        for lane in range(len(row)):
            nonzero[lane] += np.int32(row[lane] != 0)
    for i in range(len(kept)):
        read_ahead(kept, i + AHEAD, begin, end)
        read_ahead(grad, i + AHEAD, begin, end)
        write_ahead(out, i + AHEAD, begin, end)
        row, given, passed = kept[i, begin:end], grad[i, begin:end], out[i, begin:end]
        for lane in range(len(row)):
            passed[lane] = given[lane] if row[lane] != 0 or nonzero[lane] < k else np.int32(0)

"""CPU kernels of AbsTopK alone on feature-major activations, int32 bits of floats [width, n], tile by tile."""

import numpy as np
from numba import prange

from thinwire.engine.jit import inner, kernel
from thinwire.engine.lanes import (
    COUNT,
    GROUP,
    LANES,
    LOW,
    SAMPLE,
    new_state,
    nonzeros,
    select,
    write_row,
    write_ties,
)

TOGETHER = GROUP * LANES
"""Most tokens that a thread takes at once."""


@kernel
def keep_columns(x, out, k, threads):
    """Zero all but the k largest magnitudes of each column of x into out."""
    width, n = x.shape
    together = stretch_of(n, threads)
    groups = (n + together - 1) // together
    jobs = n_jobs(groups, threads)
    short, every = np.empty(n, np.bool_), np.arange(width)
    for job in prange(jobs):
        tiles, state = np.empty((together // LANES, width, LANES), np.int32), new_state()
        for group in range(job * groups // jobs, (job + 1) * groups // jobs):
            begin = group * together
            end = min(n, begin + together)
            for i in range(width):
                spread(x[i, begin:end], tiles, i)
            keep_tiles(tiles, every, k, state, begin, end, out, short)


@inner
def stretch_of(n, threads):
    """How many tokens a thread takes at once, of n: whole tiles, and few enough that all threads have some."""
    tiles = (n + LANES - 1) // LANES
    return LANES * max(1, min(GROUP, tiles // threads))


@inner
def n_jobs(groups, threads):
    """In how many parts threads share groups of tiles: a few each, since a guess helps the next one in a part."""
    return min(groups, 2 * threads)


@inner
def spread(row, tiles, i):
    """Lay a stretch of row i out over the tiles."""
    for tile in range((len(row) + LANES - 1) // LANES):
        part, laid = row[tile * LANES : (tile + 1) * LANES], tiles[tile, i]
        for lane in range(len(part)):
            laid[lane] = part[lane]


@inner
def keep_tiles(tiles, rows, k, state, begin, end, out, short):
    """out[rows, begin:end] = what AbsTopK keeps of the tiles, one stretch of tokens; other rows of out are zero.

    short[begin:end] says of which all numbers are kept that are not zero, so that a gradient passes everywhere: fewer
    than k are not zero, or k is the width.
    """
    width = tiles.shape[1]
    used = (end - begin + LANES - 1) // LANES
    thresholds, missing = np.zeros((GROUP, LANES), np.int32), np.zeros((GROUP, LANES), np.int32)
    if k < width:
        sample = np.empty((SAMPLE, LANES), np.int32)
        for tile in range(used):
            select(tiles[tile], k, sample, state)
            thresholds[tile] = state[LOW]
            missing[tile] = k - state[COUNT]
    elif k < len(out):
        for tile in range(used):
            missing[tile] = k - nonzeros(tiles[tile], state)
    for i in range(width):
        for tile in range(used):
            first = begin + tile * LANES
            write_row(tiles[tile, i], thresholds[tile], out[rows[i], first : min(end, first + LANES)])
    for tile in range(used):
        first = begin + tile * LANES
        for lane in range(min(end - first, LANES)):
            short[first + lane] = k == len(out) or (missing[tile, lane] > 0 and thresholds[tile, lane] <= 1)
            if missing[tile, lane] > 0 and thresholds[tile, lane] > 1:  # zeros need not be written
                tied = thresholds[tile, lane] - np.int32(1)
                write_ties(tiles[tile], rows, lane, tied, missing[tile, lane], out[:, first + lane])


@kernel
def pass_columns(kept, grad, out, k):
    """Gradient of keep_columns; a column with fewer than k nonzeros passes everything."""
    width, n = kept.shape
    for place in prange((n + LANES - 1) // LANES):
        begin = place * LANES
        n_tokens = min(n - begin, LANES)
        nonzero = np.zeros(LANES, np.int32)
        for i in range(width):
            row = kept[i, begin : begin + n_tokens]
            for lane in range(n_tokens):
                nonzero[lane] += np.int32(row[lane] != 0)
        everything = nonzero < k
        for i in range(width):
            row, given = kept[i, begin : begin + n_tokens], grad[i, begin : begin + n_tokens]
            passed = out[i, begin : begin + n_tokens]
            for lane in range(n_tokens):
                passed[lane] = given[lane] if row[lane] != 0 or everything[lane] else np.int32(0)

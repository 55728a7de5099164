"""CPU kernels of AbsTopK, and holding rows, on feature-major activations [width, n]."""

import numpy as np
from numba import prange

from thinwire.engine.ahead import AHEAD, read_ahead, write_ahead
from thinwire.engine.jit import inlined, inner, kernel, making
from thinwire.engine.stretches import (
    fence,
    reaching,
    store_flags,
    store_stretch,
    stretch,
)
from thinwire.engine.threshold_search import COUNT, THRESHOLD, find, lay, search_scratch
from thinwire.engine.tiles import (
    TOKENS,
    count_nonzeros,
    drop_ties,
    empty_tile,
    is_past,
    n_jobs,
    n_tiles,
    part,
    put,
)
from thinwire.engine.vectors import everywhere


@kernel
def keep_columns(x, k, threads, out):
    """Zero all but the k largest magnitudes of each column of x into out."""
    width, n = x.shape
    held = nothing_held(n)
    tiles = n_tiles(n)
    jobs = n_jobs(tiles, threads)
    short, every, past = np.empty(n, np.bool_), np.arange(width), is_past(out)
    for job in prange(jobs):
        tile, scratch = empty_tile(width), search_scratch(width)
        for place in range(job * tiles // jobs, (job + 1) * tiles // jobs):
            begin = place * TOKENS
            end = min(n, begin + TOKENS)
            lay_out(x, begin, end, tile, scratch)
            keep_tile(tile, every, k, held, begin, end, past, scratch, out, short)
        fence()


@inner
def lay_out(x, begin, end, tile, scratch):
    """Make a tile of a stretch of all rows, laid with the scratch of a search."""
    for i in range(len(x)):
        read_ahead(x, i + AHEAD, begin, end)
        lay(tile, i, part(x[i], begin, end), scratch)


@inner
def keep_tile(tile, rows, k, held, begin, end, past, scratch, out, short):
    """out[rows, begin:end] = what AbsTopK keeps of a tile, then held; other rows of out stay, and the tile does not.

    `held` are as in `trials_of`, `past` as in `put`, and the rest as in `settled`.
    """
    least, trials = settled(tile, k, end - begin, scratch, short[begin:end]), trials_of(held, begin, end)
    for i in range(len(rows)):
        if not past:
            write_ahead(out, rows[min(i + AHEAD, len(rows) - 1)], begin, end)
        put_row(reaching(stretch(tile[i], 0), least), rows[i], held, trials, begin, end, past, tile[i], out)


@inner
def keep_in_place(tile, k, used, scratch, short):
    """Zero what AbsTopK does not keep of a tile, of which so many lanes are used; the rest is as in `settled`."""
    least = settled(tile, k, used, scratch, short)
    for i in range(len(tile)):
        store_stretch(tile[i], 0, reaching(stretch(tile[i], 0), least))


@inner
def settled(tile, k, used, scratch, short):
    """The magnitudes, a stretch, that what AbsTopK keeps of a tile reaches; ties that it does not keep become zeros.

    `short` says of which tokens fewer than k numbers are not zero: all are kept, and a gradient passes everywhere.
    Scratch is that of the search.
    """
    thresholds, counts = scratch.state[THRESHOLD], scratch.state[COUNT]
    if k < len(tile):
        find(tile, k, used, scratch)
    else:
        count_nonzeros(tile, counts)
        thresholds[:] = 0
    for lane in range(used):
        missing = k - counts[lane]
        short[lane] = missing > 0 and thresholds[lane] <= 1
        if missing > 0 and thresholds[lane] > 1:  # zeros need not be written
            thresholds[lane] -= 1
            drop_ties(tile, lane, thresholds[lane], missing)
    return stretch(thresholds.view(np.float32), 0)


@inner
def trials_of(held, begin, end):
    """The first of the trials that a stretch of tokens is of, and the one after the last; none where none is held.

    `held` are mean [width], mask [trials, width], and flags [width, n] that say where a row with a mask other than 1
    was not zero; the n tokens lie trial by trial. The mask may have no nodes, which then are not held, and there may be
    no flags.
    """
    _, mask, flags = held
    n = flags.shape[1] // len(mask)
    return (begin // n, (end - 1) // n + 1) if mask.shape[1] > 0 else (0, 0)


@making
def nothing_held(n):
    """What `trials_of` takes where no row of n tokens is held."""
    return np.empty(0, np.float32), np.empty((1, 0), np.float32), np.empty((0, n), np.int8)


@inlined
def towards(constant, x, by):
    """x, a stretch, moved towards a constant, all the way where the mask `by` is 0."""
    constant = everywhere(constant)
    return constant if by == 0 else constant + by * (x - constant)


@inlined
def put_row(x, o, held, trials, begin, end, past, scratch, out):
    """out[o, begin:end] = x, a stretch, held; the rest is as in `put`."""
    whole, trial = end - begin == TOKENS, trials[0]
    mean, mask, flags = held
    if whole and trials[1] - trial == 1:
        if mask[trial, o] != 1:
            if len(flags) > 0:
                store_flags(flags[o], begin, x)
            x = towards(mean[o], x, mask[trial, o])
    elif not whole or trials[1] > trial:
        store_stretch(scratch, 0, x)
        _hold_row(scratch, o, held, trials, begin, end)
        x = stretch(scratch, 0)
    put(x, begin, end, past, out[o])


@inner
def _hold_row(row, o, held, trials, begin, end):
    """`put_row` for a stretch of any trials: move it towards the mean where a mask is not 1, all the way where 0."""
    mean, mask, flags = held
    n = flags.shape[1] // len(mask)
    for trial in range(trials[0], trials[1]):
        by, constant = mask[trial, o], mean[o]
        if by == 1:
            continue
        first, last = max(begin, trial * n), min(end, (trial + 1) * n)
        own = row[first - begin : last - begin]
        if len(flags) > 0:
            flag = flags[o, first:last]
            for t in range(len(own)):
                flag[t] = np.int8(own[t] != 0)
        if by == 0:
            for t in range(len(own)):
                own[t] = constant
        else:
            for t in range(len(own)):
                own[t] = constant + by * (own[t] - constant)


@kernel
def pass_columns(kept, grad, out, k):
    """Gradient of keep_columns; a column with fewer than k nonzeros passes everything."""
    n = kept.shape[1]
    for place in prange(n_tiles(n)):
        nonzero = np.zeros(TOKENS, np.int32)
        _pass_tile(kept, grad, k, place * TOKENS, min(n, (place + 1) * TOKENS), nonzero, out)


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

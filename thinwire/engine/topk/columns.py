"""CPU kernels of AbsTopK, and of ablating rows, on feature-major activations [width, n]."""

import numpy as np
from numba import prange

from thinwire.engine.jit import allocating, device_function, inline_function, kernel
from thinwire.engine.simd.lanes import keep_reaching
from thinwire.engine.simd.memory import fence, load, store, store_flags
from thinwire.engine.simd.prefetch import DISTANCE, prefetch_read, prefetch_write
from thinwire.engine.simd.tiles import (
    TOKENS,
    count_nonzeros,
    drop_ties,
    empty_tile,
    is_streamed,
    load_range,
    n_jobs,
    n_tiles,
    store_range,
)
from thinwire.engine.simd.vectors import broadcast
from thinwire.engine.topk.ablation import KernelAblation, Output
from thinwire.engine.topk.threshold import COUNT, THRESHOLD, empty_scratch, find_thresholds, store_with_key


@kernel
def keep_columns(x, k, threads, out):
    """out = x [width, n] with all but the k largest magnitudes of each column zeroed."""
    width, n = x.shape
    short, streaming = np.empty(n, np.bool_), is_streamed(out)
    tiles = n_tiles(n)
    jobs = n_jobs(tiles, threads)
    every = np.arange(width)
    for job in prange(jobs):
        tile, scratch = empty_tile(width), empty_scratch(width)
        # a record that another function returned could not be captured by the loop
        output = Output(out, short, no_ablation(n), streaming)
        for number in range(job * tiles // jobs, (job + 1) * tiles // jobs):
            begin = number * TOKENS
            end = min(n, begin + TOKENS)
            load_tile(x, begin, end, tile, scratch)
            keep_and_store_tile(tile, every, k, begin, end, scratch, output)
        fence()


@device_function
def load_tile(x, begin, end, tile, scratch):
    """tile = x[:, begin:end], prepared for a search."""
    for i in range(len(x)):
        prefetch_read(x, i + DISTANCE, begin, end)
        store_with_key(tile, i, load_range(x[i], begin, end), scratch)


@device_function
def keep_and_store_tile(tile, rows, k, begin, end, scratch, output):
    """Write to output rows `rows`, tokens begin … end - 1, what AbsTopK keeps of a tile, ablated.

    Other rows stay as they are. The tile is overwritten.
    """
    least = select_thresholds(tile, k, end - begin, scratch, output.short[begin:end])
    trials = trials_in_range(output.ablation, begin, end)
    for i in range(len(rows)):
        if not output.streaming:
            prefetch_write(output.out, rows[min(i + DISTANCE, len(rows) - 1)], begin, end)
        store_ablated(keep_reaching(load(tile[i], 0), least), rows[i], trials, begin, end, tile[i], output)


@device_function
def keep_in_place(tile, k, used, scratch, short):
    """Zero what AbsTopK drops of a tile in which `used` lanes hold tokens; see `select_thresholds` for the rest."""
    least = select_thresholds(tile, k, used, scratch, short)
    for i in range(len(tile)):
        store(tile[i], 0, keep_reaching(load(tile[i], 0), least))


@device_function
def select_thresholds(tile, k, used, scratch, short):
    """The magnitude, for each token of a tile, that exactly the kept channels reach; ties that are dropped are zeroed.

    short[t] becomes true for tokens with fewer than k nonzeros: all of them are kept, and gradients pass to zeros too.
    """
    thresholds, counts = scratch.state[THRESHOLD], scratch.state[COUNT]
    if k < len(tile):
        find_thresholds(tile, k, used, scratch)
    else:
        count_nonzeros(tile, counts)
        thresholds[:] = 0
    for lane in range(used):
        missing = k - counts[lane]
        short[lane] = missing > 0 and thresholds[lane] <= 1
        if missing > 0 and thresholds[lane] > 1:  # a tie of zeros needs no write
            thresholds[lane] -= 1
            drop_ties(tile, lane, thresholds[lane], missing)
    return load(thresholds.view(np.float32), 0)


@device_function
def trials_in_range(ablation, begin, end):
    """First and last + 1 of the trials that tokens begin … end - 1 belong to; (0, 0) where nothing is ablated."""
    n = ablation.flags.shape[1] // len(ablation.mask)
    return (begin // n, (end - 1) // n + 1) if ablation.mask.shape[1] > 0 else (0, 0)


@allocating
def no_ablation(n):
    """The ablation, for n tokens, that ablates nothing."""
    return KernelAblation(np.empty(0, np.float32), np.empty((1, 0), np.float32), np.empty((0, n), np.int8))


@inline_function
def ablate_vector(value, x, mask):
    """Vector x moved towards a constant: value + mask · (x - value)."""
    constant = broadcast(value)
    return constant if mask == 0 else constant + mask * (x - constant)


@inline_function
def store_ablated(x, o, trials, begin, end, scratch, output):
    """Write vector x, ablated, to row o of the output, tokens begin … end - 1; `scratch` is a row of a tile."""
    whole, trial, ablation = end - begin == TOKENS, trials[0], output.ablation
    if whole and trials[1] - trial == 1:
        mask = ablation.mask[trial, o]
        if mask != 1:
            if len(ablation.flags) > 0:
                store_flags(ablation.flags[o], begin, x)
            x = ablate_vector(ablation.values[o], x, mask)
    elif not whole or trials[1] > trial:
        store(scratch, 0, x)
        _ablate_row(scratch, o, ablation, trials, begin, end)
        x = load(scratch, 0)
    store_range(x, begin, end, output.streaming, output.out[o])


@device_function
def _ablate_row(row, o, ablation, trials, begin, end):
    """`store_ablated` for the tokens of several trials, or of part of a tile."""
    n = ablation.flags.shape[1] // len(ablation.mask)
    for trial in range(trials[0], trials[1]):
        mask, value = ablation.mask[trial, o], ablation.values[o]
        if mask == 1:
            continue
        first, last = max(begin, trial * n), min(end, (trial + 1) * n)
        own = row[first - begin : last - begin]
        if len(ablation.flags) > 0:
            flag = ablation.flags[o, first:last]
            for t in range(len(own)):
                flag[t] = np.int8(own[t] != 0)
        if mask == 0:
            for t in range(len(own)):
                own[t] = value
        else:
            for t in range(len(own)):
                own[t] = value + mask * (own[t] - value)


@kernel
def pass_columns(kept, grad, out, k):
    """Gradient of `keep_columns`, int32 views [width, n]; a column with fewer than k nonzeros passes everything."""
    n = kept.shape[1]
    for number in prange(n_tiles(n)):
        nonzero = np.zeros(TOKENS, np.int32)
        _pass_tile(kept, grad, k, number * TOKENS, min(n, (number + 1) * TOKENS), nonzero, out)


@device_function
def _pass_tile(kept, grad, k, begin, end, nonzero, out):
    """`pass_columns` for a tile; `nonzero` [TOKENS] holds counts, zeros before."""
    for i in range(len(kept)):
        prefetch_read(kept, i + DISTANCE, begin, end)
        row = kept[i, begin:end]
        for lane in range(len(row)):
            nonzero[lane] += np.int32(row[lane] != 0)
    for i in range(len(kept)):
        prefetch_read(kept, i + DISTANCE, begin, end)
        prefetch_read(grad, i + DISTANCE, begin, end)
        prefetch_write(out, i + DISTANCE, begin, end)
        row, d_row, passed = kept[i, begin:end], grad[i, begin:end], out[i, begin:end]
        for lane in range(len(row)):
            passed[lane] = d_row[lane] if row[lane] != 0 or nonzero[lane] < k else np.int32(0)

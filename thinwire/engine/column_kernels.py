"""CPU kernels of AbsTopK on feature-major activations: the same result as on rows, several tokens at a time.

The magnitudes of a tile of tokens are counted against one threshold a token at once. Guesses follow those of
`thinwire.engine.row_kernels`; once few tokens are left, the candidates of each are sorted.
"""

import numpy as np
from numba import prange

from thinwire.engine.jit import inner, kernel

LANES = 64
"""Tokens of a tile."""
TILES = 8
"""Tiles that a thread takes in turn, each guessing its thresholds from the one before."""
GUESSES = 12
"""Interpolated guesses at thresholds before halving."""
FEW = 8
"""Tokens without a threshold that are settled one by one."""
PATIENCE = 4
"""Guesses before tokens are settled one by one."""
MAGNITUDE = 0x7FFFFFFF
"""All bits of a float but its sign."""


@kernel
def keep_columns(x, out, k, spacing):
    """Zero all but the k largest magnitudes of each column of x [width, n], int32 bits of floats, into out.

    Ties go to the lowest index. `spacing` estimates how many bit patterns lie between a magnitude and the next.
    """
    width, n = x.shape
    tiles = (n + LANES - 1) // LANES
    for job in prange((tiles + TILES - 1) // TILES):
        buffer = np.empty((width, LANES), np.int32)
        low, high = np.empty(LANES, np.int32), np.empty(LANES, np.int32)
        n_low, n_high = np.empty(LANES, np.int32), np.empty(LANES, np.int32)
        guess, count = np.ones(LANES, np.int32), np.empty(LANES, np.int32)
        for tile in range(job * TILES, min(tiles, job * TILES + TILES)):
            begin = tile * LANES
            n_tokens = min(n - begin, LANES)
            _load(x, begin, n_tokens, buffer)
            low[:], high[:] = 0, MAGNITUDE
            n_low[:], n_high[:] = width, 0
            _find(buffer, k, spacing, guess, count, low, high, n_low, n_high)
            _store(x, begin, n_tokens, buffer, low, out)
            _count(buffer, low, count)
            for lane in range(n_tokens):
                if count[lane] < k and low[lane] > 1:  # a tie at the threshold; zeros need not be copied
                    _restore(x, begin + lane, low[lane] - 1, k - count[lane], out)
                guess[lane] = max(low[lane], np.int32(1))


# rows are sliced from whole arrays: a slice of columns has no stride known when compiling, and does not vectorize
@inner
def _load(x, begin, n, buffer):
    """Magnitudes of the tokens begin … begin + n - 1; the other lanes are zero."""
    for i in range(x.shape[0]):
        row, magnitudes = x[i, begin : begin + n], buffer[i]
        for lane in range(n):
            magnitudes[lane] = row[lane] & np.int32(MAGNITUDE)
        for lane in range(n, LANES):
            magnitudes[lane] = 0


@inner
def _count(buffer, threshold, count):
    """How many magnitudes of each lane reach its threshold."""
    width = buffer.shape[0]
    whole = width - width % 8
    count[:] = 0
    for i in range(0, whole, 8):
        for lane in range(LANES):
            least = threshold[lane]
            reached = np.int32(0)
            for row in range(8):
                reached += np.int32(buffer[i + row, lane] >= least)
            count[lane] += reached
    for i in range(whole, width):
        for lane in range(LANES):
            count[lane] += np.int32(buffer[i, lane] >= threshold[lane])


@inner
def _find(buffer, k, spacing, guess, count, low, high, n_low, n_high):
    """Bring `low` of each lane to the smallest threshold that at most k magnitudes reach, or one that k do."""
    tries = 0
    while True:
        _count(buffer, guess, count)
        tries += 1
        open_lanes = _narrow(k, spacing, tries, guess, count, low, high, n_low, n_high)
        if open_lanes == 0:
            return
        if tries >= PATIENCE and open_lanes <= FEW:
            for lane in range(LANES):
                if low[lane] < high[lane]:
                    low[lane] = _settle(buffer, lane, k, low[lane], high[lane], n_low[lane], n_high[lane])
            return


@inner
def _narrow(k, spacing, tries, guess, count, low, high, n_low, n_high):
    """Take up the counts and guess again; returns how many lanes still have no threshold. Without a branch."""
    step = np.float64(spacing) * 2.0**tries
    halve = tries > GUESSES
    n_open = np.int32(0)
    for lane in range(LANES):
        least, most, middle = low[lane], high[lane], guess[lane]
        is_open = least < most
        reached = count[lane]
        above, below = is_open and reached > k, is_open and reached < k
        hit = is_open and reached == k
        least = middle + np.int32(1) if above else (middle if hit else least)
        most = middle if below or hit else most
        from_low = reached if above else n_low[lane]
        from_high = reached if below else n_high[lane]
        low[lane], high[lane], n_low[lane], n_high[lane] = least, most, from_low, from_high
        n_open += np.int32(least < most)
        lowest, width = np.float64(least), np.float64(most) - np.float64(least)
        over, under = np.float64(from_low - k), np.float64(k - from_high)
        between = lowest + width * (np.float64(0.5) if halve else over / max(over + under, 1.0))
        up, down = lowest + over * step * 0.5, np.float64(most) - 1.0 - under * step
        bounded = halve or (least > 0 and most < MAGNITUDE)
        next_one = between if bounded else (down if most < MAGNITUDE else up)
        guess[lane] = np.int32(max(min(next_one, np.float64(most) - 1.0), lowest))
    return n_open


@inner
def _settle(buffer, lane, k, low, high, n_low, n_high):
    """The threshold of a lane, between low, which n_low magnitudes reach, and high, which n_high reach."""
    candidates = np.empty(n_low - n_high, np.int32)
    found = 0
    for i in range(buffer.shape[0]):
        magnitude = buffer[i, lane]
        if low <= magnitude < high and found < len(candidates):
            candidates[found] = magnitude
            found += 1
    wanted = k - n_high  # of the candidates, the largest
    if wanted >= found:
        return low
    candidates = np.sort(candidates[:found])
    if wanted == 0:
        return candidates[found - 1] + np.int32(1)
    least = candidates[found - wanted]
    return least + np.int32(1) if candidates[found - wanted - 1] == least else least


@inner
def _store(x, begin, n, buffer, threshold, out):
    for i in range(x.shape[0]):
        row, magnitudes, kept = x[i, begin : begin + n], buffer[i], out[i, begin : begin + n]
        for lane in range(n):
            kept[lane] = row[lane] if magnitudes[lane] >= threshold[lane] else np.int32(0)


@inner
def _restore(x, column, tied, missing, out):
    """Copy the first `missing` entries of a column that have the tied magnitude."""
    for i in range(x.shape[0]):
        if missing > 0 and (x[i, column] & np.int32(MAGNITUDE)) == tied:
            out[i, column] = x[i, column]
            missing -= 1


@kernel
def pass_columns(kept, grad, out, k):
    """Gradient of keep_columns: int32 bits [width, n]; a column with fewer than k nonzeros passes everything."""
    width, n = kept.shape
    for tile in prange((n + LANES - 1) // LANES):
        begin = tile * LANES
        end = min(n, begin + LANES)
        nonzero = np.zeros(LANES, np.int32)
        for i in range(width):
            row = kept[i, begin:end]
            for lane in range(end - begin):
                nonzero[lane] += np.int32(row[lane] != 0)
        everything = nonzero < k
        for i in range(width):
            row, given, passed = kept[i, begin:end], grad[i, begin:end], out[i, begin:end]
            for lane in range(end - begin):
                passed[lane] = given[lane] if row[lane] != 0 or everything[lane] else np.int32(0)

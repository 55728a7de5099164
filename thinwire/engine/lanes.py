"""AbsTopK on a tile: the bits of floats [width, LANES], one token a lane, all lanes at once. Parts of CPU kernels.

Thresholds are guessed, and the magnitudes that reach them counted, for all lanes together. Guesses are interpolated
between counts; the end of a bracket that stays twice loses half its weight, so that both ends close in (the Illinois
method). Where one candidate too many or too few is left, the nearest magnitude is the answer.
"""

import numpy as np

from thinwire.engine.jit import inner, making

LANES = 64
"""Tokens of a tile."""
GROUP = 4
"""Tiles that a thread takes at once, so that it reads and writes long stretches of a row."""
SAMPLE, SAMPLED_FROM = 128, 2048
"""Rows that thresholds are first guessed from, in tiles of so many rows or more."""
GUESSES = 12
"""Interpolated guesses at thresholds before halving."""
MAGNITUDE = 0x7FFFFFFF
"""All bits of a float but its sign."""
LARGEST = np.float32(2**31 - 128)
"""The largest float below the integers that do not fit 32 bits."""
LOW, HIGH, N_LOW, N_HIGH, GUESS, COUNT, UPPER, SIDE = range(8)
"""What is known of each lane: its threshold is from LOW, one above what N_LOW magnitudes reach, to HIGH, which N_HIGH
reach; which end moved last; and the next guess."""


@making
def new_state():
    """What `select` needs beside the tile; it is kept from tile to tile, since tokens are alike."""
    state = np.zeros((8, LANES), np.int32)
    state[GUESS] = 1
    return state


@making
def select(tile, k, sample, state):
    """Bring state[LOW] of each lane to the smallest threshold that at most k magnitudes reach, or one that k do.

    state[COUNT] is how many reach it; `sample` is scratch [SAMPLE, LANES].
    """
    sampled = tile.shape[0] >= SAMPLED_FROM
    if sampled:
        _guess(tile, k, sample, state)
    _find(tile, k, state, sampled)
    threshold, count = state[LOW], state[COUNT]
    _count(tile, threshold, count)
    for lane in range(LANES):
        if count[lane] > k:  # several are as large as the last candidate
            threshold[lane] += 1
            count[lane] = state[N_HIGH, lane]
        state[GUESS, lane] = max(threshold[lane], np.int32(1))


@making
def nonzeros(tile, state):
    """How many numbers of each lane are not zero."""
    state[GUESS] = 1
    _count(tile, state[GUESS], state[COUNT])
    return state[COUNT]


@inner
def write_ties(tile, rows, lane, tied, missing, out):
    """Into out[rows], the first so many entries of a lane that have the tied magnitude."""
    for i in range(tile.shape[0]):
        if missing > 0 and (tile[i, lane] & np.int32(MAGNITUDE)) == tied:
            out[rows[i]] = tile[i, lane]
            missing -= 1


@inner
def _count(tile, threshold, count):
    """How many magnitudes of each lane reach its threshold."""
    width = tile.shape[0]
    whole = width - width % 8
    count[:] = width
    for i in range(0, whole, 8):
        for lane in range(LANES):
            least = threshold[lane]
            missed = np.int32(0)
            for row in range(8):
                missed += _below(tile[i + row, lane], least)
            count[lane] += missed
    for i in range(whole, width):
        for lane in range(LANES):
            count[lane] += _below(tile[i, lane], threshold[lane])


@inner
def _below(number, least):
    """-1 where the magnitude is below, otherwise 0: a sign bit, since masks of comparisons are slower to add up."""
    return np.int32(np.int32((number & np.int32(MAGNITUDE)) - least) >> np.int32(31))


@making
def _guess(tile, k, sample, state):
    """Guess thresholds from some rows: GUESS, which more than k magnitudes should reach, and UPPER, which fewer."""
    stride = tile.shape[0] // SAMPLE
    for i in range(SAMPLE):
        sample[i] = tile[i * stride]
    share = k * SAMPLE / tile.shape[0]
    margin = 1.0 + 1.5 * np.sqrt(share)
    _find(sample, max(np.int64(share - margin), 1), state, False)
    for lane in range(LANES):
        state[UPPER, lane] = state[LOW, lane]
    _find(sample, min(np.int64(share + margin) + 1, SAMPLE), state, False)
    for lane in range(LANES):
        state[GUESS, lane] = max(state[LOW, lane], np.int32(1))


@making
def _find(tile, k, state, bracketed):
    """See `select`. The first guesses are in GUESS, and where `bracketed` the second ones in UPPER."""
    low, high, guess, count = state[LOW], state[HIGH], state[GUESS], state[COUNT]
    weights = np.empty((2, LANES), np.float32)
    _begin(tile, k, weights, state)
    tries = 0
    while True:
        _count(tile, guess, count)
        tries += 1
        n_far, n_open = _narrow(k, tries > GUESSES, weights[0], weights[1], state)
        if n_far == 0:
            if n_open:
                _finish(tile, k, state)
            return
        if bracketed and tries == 1:
            for lane in range(LANES):
                upper = state[UPPER, lane]
                guess[lane] = upper if low[lane] <= upper < high[lane] else guess[lane]


@inner
def _begin(tile, k, weights, state):
    """Where k or fewer are not zero the threshold is 1; elsewhere it is from the smallest nonzero to the largest."""
    count, smallest, largest = state[COUNT], state[LOW], state[HIGH]
    count[:], smallest[:], largest[:] = 0, MAGNITUDE, 0
    width = tile.shape[0]
    whole = width - width % 8
    for i in range(0, whole, 8):
        for lane in range(LANES):
            n, least, most = count[lane], smallest[lane], largest[lane]
            for row in range(8):
                magnitude = np.int32(tile[i + row, lane] & np.int32(MAGNITUDE))
                n += np.int32(magnitude != 0)
                least = magnitude if (magnitude < least) & (magnitude != 0) else least
                most = magnitude if magnitude > most else most
            count[lane], smallest[lane], largest[lane] = n, least, most
    for i in range(whole, width):
        for lane in range(LANES):
            magnitude = np.int32(tile[i, lane] & np.int32(MAGNITUDE))
            count[lane] += np.int32(magnitude != 0)
            smallest[lane] = magnitude if 0 < magnitude < smallest[lane] else smallest[lane]
            largest[lane] = magnitude if magnitude > largest[lane] else largest[lane]
    for lane in range(LANES):
        n, done = count[lane], count[lane] <= k
        state[LOW, lane] = 1 if done else smallest[lane] + 1
        state[HIGH, lane] = 1 if done else largest[lane] + 1
        state[N_LOW, lane], state[N_HIGH, lane], state[SIDE, lane] = n, n if done else 0, 0
        weights[0, lane], weights[1, lane] = n - k, k
        state[GUESS, lane] = min(
            max(state[GUESS, lane], state[LOW, lane]), max(state[HIGH, lane] - 1, state[LOW, lane])
        )


@inner
def _narrow(k, halve, over, under, state):
    """Take up the counts and guess again, without a branch.

    Returns how many lanes still have no threshold with more than one candidate too many and too few, and how many have
    none at all. `over` and `under` are the weights of the ends: how many candidates they are off, or less.
    """
    low, high, n_low, n_high = state[LOW], state[HIGH], state[N_LOW], state[N_HIGH]
    guess, count, side = state[GUESS], state[COUNT], state[SIDE]
    k = np.int32(k)
    n_far, n_open = np.int32(0), np.int32(0)
    for lane in range(LANES):
        least, most, middle = low[lane], high[lane], guess[lane]
        is_open = least < most
        reached = count[lane]
        above, below, hit = is_open & (reached > k), is_open & (reached < k), is_open & (reached == k)
        least = middle + np.int32(1) if above else (middle if hit else least)
        most = middle if below | hit else most
        from_low = reached if above else n_low[lane]
        from_high = reached if below else n_high[lane]
        low[lane], high[lane], n_low[lane], n_high[lane] = least, most, from_low, from_high
        left = least < most
        n_open += np.int32(left)
        n_far += np.int32(left & (from_low - k > 1) & (k - from_high > 1))
        half, whole = np.float32(0.5), np.float32(1)
        too_many = np.float32(from_low - k) if above else over[lane] * (half if below & (side[lane] < 0) else whole)
        too_few = np.float32(k - from_high) if below else under[lane] * (half if above & (side[lane] > 0) else whole)
        over[lane], under[lane] = too_many, too_few
        side[lane] = np.int32(1) if above else np.int32(-1)
        width = np.float32(most - least)
        share = np.float32(0.5) if halve else too_many / (too_many + too_few)
        ahead = width * share
        ahead = ahead if ahead < width - np.float32(1) else width - np.float32(1)
        ahead = ahead if ahead < LARGEST else LARGEST
        guess[lane] = least + np.int32(ahead if ahead > np.float32(0) else np.float32(0))
    return n_far, n_open


@making
def _finish(tile, k, state):
    """Thresholds where one candidate is too many, which is the smallest, or one too few, which is the largest.

    Several may be as large as the latter, which `select` has to see to.
    """
    low, high = state[LOW], state[HIGH]
    smallest, largest = np.full(LANES, MAGNITUDE, np.int32), np.zeros(LANES, np.int32)
    width = tile.shape[0]
    whole = width - width % 8
    for i in range(0, whole, 8):
        for lane in range(LANES):
            least, most = low[lane] - np.int32(1), high[lane]
            above, below = smallest[lane], largest[lane]
            for row in range(8):
                magnitude = np.int32(tile[i + row, lane] & np.int32(MAGNITUDE))
                above = magnitude if (magnitude >= least) & (magnitude < above) else above
                below = magnitude if (magnitude < most) & (magnitude > below) else below
            smallest[lane], largest[lane] = above, below
    for i in range(whole, width):
        for lane in range(LANES):
            magnitude = np.int32(tile[i, lane] & np.int32(MAGNITUDE))
            smallest[lane] = magnitude if low[lane] <= magnitude + 1 and magnitude < smallest[lane] else smallest[lane]
            largest[lane] = magnitude if largest[lane] < magnitude < high[lane] else largest[lane]
    for lane in range(LANES):
        if low[lane] < high[lane]:
            too_many = state[N_LOW, lane] - k == 1
            low[lane] = smallest[lane] + np.int32(1) if too_many else max(largest[lane], low[lane])

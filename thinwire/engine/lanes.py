"""AbsTopK on a tile: one token a lane, all lanes at once. Parts of CPU kernels.

A number is split in two: its key, the upper half of its bits but the sign, and its rest, the lower half. The
threshold of a token is searched for among keys, twice as many of which are a vector. It is first guessed to lie between
two that a sample of the tile gives. The numbers that reach either are counted, for all lanes together; the next two are
as far from where interpolation puts the threshold as chance may put it, until the bracket is closed. Of the few numbers
whose key is just below, the rests decide.
"""

import math

import numpy as np

from thinwire.engine.jit import inner, making

LANES = 64
"""Tokens of a tile."""
GROUP = 4
"""Tiles that a thread takes at once, so that it reads and writes long stretches of a row."""
UPPER, LOWER = range(2)
"""The halves of a tile: int16 [2, width, LANES]."""
MAGNITUDE = 0x7FFFFFFF
"""All bits of a float but its sign."""
KEY = 0x7FFF
"""The same of an upper half, or the last key, which no number but a NaN has."""
HALF, REST = 16, 0xFFFF
"""Bits of a half."""
SAMPLE = 32
"""Rows that the first guesses are from."""
STEP, GROWTH = 16, 8
"""Keys that a guess goes beyond an open end of the bracket, and how many times as many the next one does."""
TRIES = 12
"""Pairs of guesses that are interpolated; then the bracket is cut in three."""
BATCH = 4096
"""Rows that are counted in 16 bits."""
LOW, HIGH, N_LOW, N_HIGH, FIRST, SECOND, N_FIRST, N_SECOND = range(8)
"""What is known of each lane: its threshold is from LOW, one above what N_LOW keys reach, to HIGH, which N_HIGH reach;
two guesses, and how many keys reach them. In the end, see `select`."""
THRESHOLD, COUNT = LOW, N_HIGH


@inner
def split(bits, upper, lower):
    """The halves of the bits of floats."""
    for t in range(len(bits)):
        upper[t], lower[t] = np.int16(bits[t] >> np.int32(HALF)), np.int16(bits[t])


@inner
def whole(upper, lower):
    """The bits of a float."""
    return np.int32(np.int32(np.int32(upper) << np.int32(HALF)) | (np.int32(lower) & np.int32(REST)))


@making
def select(tile, k, used):
    """What is known of each lane, int32 [8, LANES]: THRESHOLD and COUNT. Lanes from `used` on mean nothing.

    The threshold is the smallest, as the bits of a magnitude, that at most k numbers reach, or one that k do; the count
    is how many reach it.
    """
    state = np.empty((8, LANES), np.int32)
    _find(tile[UPPER], k, used, state)
    _settle(tile, k, state)
    return state


@making
def nonzeros(tile):
    """How many numbers of each lane are not zero."""
    count = np.zeros(LANES, np.int32)
    for i in range(tile.shape[1]):
        for lane in range(LANES):
            count[lane] += np.int32((whole(tile[UPPER, i, lane], tile[LOWER, i, lane]) & np.int32(MAGNITUDE)) != 0)
    return count


@inner
def drop_ties(tile, lane, tied, kept):
    """Zero the entries of a lane that have the tied magnitude, all but the first so many."""
    upper, lower = tile[UPPER], tile[LOWER]
    for i in range(len(upper)):
        if (whole(upper[i, lane], lower[i, lane]) & np.int32(MAGNITUDE)) == tied:
            if kept <= 0:
                upper[i, lane], lower[i, lane] = 0, 0
            kept -= 1


@making
def _find(keys, k, used, state):
    """Bring LOW of each lane to the smallest key that at most k keys reach, N_HIGH of them, or to one that k do."""
    scratch, sample = np.empty((4, LANES), np.int16), np.empty(SAMPLE * LANES, np.int16)
    _begin(keys, k, used, sample, state)
    tries = 0
    while True:
        _count(keys, state, scratch)
        tries += 1
        if _narrow(k, tries, state) == 0:
            return


@inner
def _begin(keys, k, used, sample, state):
    """Nothing is known, and the first guesses are those that would do for the sample, all lanes together, and more."""
    n = min(SAMPLE, len(keys))
    for i in range(n):
        row = keys[i * len(keys) // n]
        for lane in range(used):
            sample[i * used + lane] = row[lane] & np.int16(KEY)
    share, some = k * used * n / len(keys), sample[: used * n]
    margin = 1 + 1.5 * math.sqrt(share)  # standard deviations of such a count
    first, second = _reached_by(some, share + margin), _reached_by(some, share - margin)
    for lane in range(LANES):
        state[LOW, lane], state[N_LOW, lane] = 1, len(keys)
        state[HIGH, lane], state[N_HIGH, lane] = (KEY + 1, 0) if lane < used else (1, k)
        state[FIRST, lane], state[SECOND, lane] = first, second


@inner
def _reached_by(keys, n):
    """The smallest key above that of zero that at most n keys reach."""
    low, high = np.int32(1), np.int32(KEY)
    while low < high:
        middle, count = (low + high) >> np.int32(1), np.int16(0)
        for i in range(len(keys)):
            count = np.int16(count + np.int16(keys[i] >= np.int16(middle)))
        low, high = (middle + np.int32(1), high) if count > n else (low, middle)
    return low


@inner
def _count(upper, state, scratch):
    """How many keys of each lane reach its guesses."""
    first, second, n_first, n_second = scratch[0], scratch[1], scratch[2], scratch[3]
    for lane in range(LANES):
        first[lane], second[lane] = np.int16(state[FIRST, lane]), np.int16(state[SECOND, lane])
        state[N_FIRST, lane], state[N_SECOND, lane] = len(upper), len(upper)
    for begin in range(0, len(upper), BATCH):
        last = min(len(upper), begin + BATCH)
        end = last - (last - begin) % 4
        for lane in range(LANES):
            n_first[lane], n_second[lane] = 0, 0
        for i in range(begin, end, 4):
            for lane in range(LANES):
                a, b = n_first[lane], n_second[lane]
                for row in range(4):
                    key = np.int16(upper[i + row, lane] & np.int16(KEY))
                    a = np.int16(a + _below(key, first[lane]))
                    b = np.int16(b + _below(key, second[lane]))
                n_first[lane], n_second[lane] = a, b
        for i in range(end, last):
            for lane in range(LANES):
                key = np.int16(upper[i, lane] & np.int16(KEY))
                n_first[lane] = np.int16(n_first[lane] + _below(key, first[lane]))
                n_second[lane] = np.int16(n_second[lane] + _below(key, second[lane]))
        for lane in range(LANES):
            state[N_FIRST, lane] += np.int32(n_first[lane])
            state[N_SECOND, lane] += np.int32(n_second[lane])


@inner
def _below(key, guess):
    """-1 where a key is below, otherwise 0: a sign bit, since masks of comparisons are slower to add up."""
    return np.int16(np.int16(key - guess) >> np.int16(15))


@inner
def _narrow(k, tries, state):
    """Take up the counts and guess again, without a branch; returns how many lanes have no threshold yet."""
    k, n_open, one = np.int32(k), np.int32(0), np.int32(1)
    reach = np.float32(STEP * GROWTH ** (2 * min(tries, 3) - 2))
    thirds = np.float32(1) / np.float32(3) if tries > TRIES else np.float32(0)
    for lane in range(LANES):
        low, high, n_low, n_high = state[LOW, lane], state[HIGH, lane], state[N_LOW, lane], state[N_HIGH, lane]
        first, n_first = state[FIRST, lane], state[N_FIRST, lane]
        second, n_second = state[SECOND, lane], state[N_SECOND, lane]
        low, high, n_low, n_high = _taken_up(k, first, n_first, low, high, n_low, n_high)
        low, high, n_low, n_high = _taken_up(k, second, n_second, low, high, n_low, n_high)
        state[LOW, lane], state[HIGH, lane], state[N_LOW, lane], state[N_HIGH, lane] = low, high, n_low, n_high
        n_open += np.int32(low < high)
        wide, n = np.float32(high - low), np.float32(max(n_low - n_high, one))
        at = wide * np.float32(n_low - k) / n
        margin = wide * np.float32(0.5) / np.float32(math.sqrt(n))  # a standard deviation of how many are on one side
        near, far = at - margin, at + margin
        upwards, downwards = high == KEY + 1, low == 1
        near = reach if upwards else (np.float32(0) if downwards else near)
        far = reach * np.float32(GROWTH) if upwards else (wide - reach if downwards else far)
        near, far = (wide * thirds, wide - wide * thirds) if thirds > 0 else (near, far)
        last = wide - np.float32(1)
        near, far = max(min(near, last), np.float32(0)), max(min(far, last), np.float32(0))
        state[FIRST, lane], state[SECOND, lane] = low + np.int32(near), low + np.int32(far)
    return n_open


@inner
def _taken_up(k, guess, count, low, high, n_low, n_high):
    """The bracket of a lane and the counts at its ends, once so many keys are known to reach a guess."""
    is_open = (low < high) & (low <= guess) & (guess < high)
    above, below, hit = is_open & (count > k), is_open & (count <= k), is_open & (count == k)
    low = guess + np.int32(1) if above else (guess if hit else low)
    high = guess if below else high
    return low, high, count if above else n_low, count if below else n_high


@making
def _settle(tile, k, state):
    """From thresholds as keys to thresholds of all bits, by the rests of the numbers whose key is just below."""
    below, n_found = np.empty(LANES, np.int16), np.zeros(LANES, np.int32)
    if not _undecided(tile, k, state, below):
        return
    found, flags = np.empty((LANES, tile.shape[1]), np.int16), np.empty(LANES, np.int16)  # of the former, the first few
    _collect(tile, below, flags.view(np.int64), flags, found, n_found)
    for lane in range(LANES):
        missing = np.int32(k - state[COUNT, lane])
        if missing > 0 and n_found[lane] > 0:
            _decide(found[lane, : n_found[lane]], missing, below[lane], lane, state)


@inner
def _undecided(tile, k, state, below):
    """Take the thresholds for final; `below` are the keys of which some have still to be taken in, or -1."""
    tiny, n_open = False, np.int32(0)
    for lane in range(LANES):
        key, n = state[THRESHOLD, lane], state[N_HIGH, lane]
        below[lane] = np.int16(key - np.int32(1)) if n < k else np.int16(-1)
        tiny |= below[lane] == 0
        state[THRESHOLD, lane] = np.int32(1) if below[lane] == 0 else np.int32(key << np.int32(HALF))
        state[COUNT, lane] = n
    tiny = tiny and _has_tiny(tile)
    for lane in range(LANES):
        below[lane] = below[lane] if below[lane] != 0 or tiny else np.int16(-1)
        n_open += np.int32(below[lane] >= 0)
    return n_open > 0


@inner
def _has_tiny(tile):
    """Whether a number that is not zero has the key of zero."""
    n = np.int32(0)
    for i in range(tile.shape[1]):
        for lane in range(LANES):
            n |= np.int32(((tile[UPPER, i, lane] & np.int16(KEY)) == 0) & (tile[LOWER, i, lane] != 0))
    return n != 0


@inner
def _collect(tile, below, words, flags, found, n_found):
    """The rests of numbers of each lane whose key is `below`, but not of zeros; `flags` and `words` are one scratch."""
    upper, lower = tile[UPPER], tile[LOWER]
    for i in range(len(upper)):
        n = np.int16(0)
        for lane in range(LANES):
            flag = np.int16((upper[i, lane] & np.int16(KEY)) == below[lane])
            flags[lane] = flag
            n |= flag
        if n != 0:
            for word in range(LANES // 4):
                if words[word] != 0:
                    for lane in range(4 * word, 4 * word + 4):
                        if flags[lane] != 0 and (lower[i, lane] != 0 or below[lane] != 0):
                            found[lane, n_found[lane]] = lower[i, lane]
                            n_found[lane] += 1


@inner
def _decide(rests, missing, key, lane, state):
    """Set the threshold of a lane so that so many of the rests of a key reach it, or fewer where some are the same."""
    least, most, n_most = np.int32(0), np.int32(REST) + np.int32(1), np.int32(0)
    while least < most and n_most < missing:
        middle, n = (least + most) >> np.int32(1), np.int32(0)
        for i in range(len(rests)):
            n += np.int32((np.int32(rests[i]) & np.int32(REST)) >= middle)
        if n > missing:
            least = middle + np.int32(1)
        else:
            most, n_most = middle, n
    state[THRESHOLD, lane] = max(np.int32(np.int32(np.int32(key) << np.int32(HALF)) + most), np.int32(1))
    state[COUNT, lane] += n_most

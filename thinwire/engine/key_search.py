"""The first part of `lanes.select`: the threshold of each token, as a key, all lanes at once. Parts of CPU kernels.

It is first guessed to lie between two keys that a sample of the tile gives. The numbers that reach either are counted,
for all lanes together; the next two are as far from where interpolation puts the threshold as chance may put it, until
the bracket is closed.
"""

import math

import numpy as np

from thinwire.engine.jit import inner, making
from thinwire.engine.tiles import HALF, KEY, LANES

SAMPLE = 32
"""Rows that the first guesses are from."""
STEP, GROWTH = 16, 32
"""Keys that a guess goes beyond an open end of the bracket, and how many times as many the other one does."""
BATCH = 4096
"""Rows that are counted in 16 bits."""
LOW, HIGH, N_LOW, N_HIGH, FIRST, SECOND, N_FIRST, N_SECOND, SLOW = range(9)
"""What is known of each lane: its threshold is from LOW, one above what N_LOW keys reach, to HIGH, which N_HIGH reach;
two guesses, and how many keys reach them; whether the last two left more than half of the bracket."""
KNOWN = SLOW + 1
"""Rows of such a state: int32 [KNOWN, LANES]."""


@making
def find(keys, k, used, state):
    """Bring LOW of each lane to the smallest key that at most k keys reach, N_HIGH of them, or to one that k do.

    Returns how many passes it took.
    """
    scratch, sample = np.empty((4, LANES), np.int16), np.empty(SAMPLE * LANES, np.int16)
    _begin(keys, k, used, sample, state)
    tries = 0
    while True:
        _count(keys, state, scratch)
        tries += 1
        if _narrow(k, tries, state) == 0:
            return tries


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
    reach, n_slow = np.float32(STEP), np.int32(0)
    for lane in range(LANES):
        low, high, n_low, n_high = state[LOW, lane], state[HIGH, lane], state[N_LOW, lane], state[N_HIGH, lane]
        first, n_first = state[FIRST, lane], state[N_FIRST, lane]
        second, n_second = state[SECOND, lane], state[N_SECOND, lane]
        was = np.float32(high - low)
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
        last = wide - np.float32(1)
        near, far = max(min(near, last), np.float32(0)), max(min(far, last), np.float32(0))
        state[FIRST, lane], state[SECOND, lane] = low + np.int32(near), low + np.int32(far)
        slow = np.int32((low < high) & (wide + wide > was))
        state[SLOW, lane] = slow
        n_slow += slow
    if n_slow > 0 and tries > 1:
        _guess_otherwise(k, tries, state)
    return n_open


@inner
def _guess_otherwise(k, tries, state):
    """Guess again where a pass left more than half of a bracket, in turns: cut it in three, or by magnitudes."""
    for lane in range(LANES):
        if state[SLOW, lane] != 0:
            low, high, n_low, n_high = state[LOW, lane], state[HIGH, lane], state[N_LOW, lane], state[N_HIGH, lane]
            if tries % 2 == 1 or n_high == 0:
                third = (high - low) // 3
                first, second = low + third, high - third - 1
            else:
                first, second = _by_magnitude(low, high, np.float32(n_low - k), np.float32(n_low - n_high))
            state[FIRST, lane], state[SECOND, lane] = first, second


@inner
def _by_magnitude(low, high, c, n):
    """Two guesses, if c of n numbers in a bracket are below the threshold and their magnitudes are spread evenly."""
    least, most = _magnitude(low), _magnitude(high)
    off = np.float32(math.sqrt(min(c, n - c)))
    near = least + (most - least) * (max(c - off, c * np.float32(0.25)) / n)
    far = least + (most - least) * ((c + off) / n)
    return max(low, min(_key(near), high - 1)), max(low, min(_key(far) + 1, high - 1))


@inner
def _magnitude(key):
    return np.int32(key << np.int32(HALF)).view(np.float32)


@inner
def _key(magnitude):
    return np.int32(np.float32(magnitude).view(np.int32) >> np.int32(HALF))


@inner
def _taken_up(k, guess, count, low, high, n_low, n_high):
    """The bracket of a lane and the counts at its ends, once so many keys are known to reach a guess."""
    is_open = (low < high) & (low <= guess) & (guess < high)
    above, below, hit = is_open & (count > k), is_open & (count <= k), is_open & (count == k)
    low = guess + np.int32(1) if above else (guess if hit else low)
    high = guess if below else high
    return low, high, count if above else n_low, count if below else n_high

"""AbsTopK on a tile, one token a lane. Parts of CPU kernels.

The threshold of a token is searched for among keys; of the few numbers whose key is just below, the lower halves of
the bits, their rests, decide.
"""

import numpy as np

from thinwire.engine.jit import inner, making
from thinwire.engine.key_search import KNOWN, LOW, N_HIGH, find
from thinwire.engine.tiles import HALF, KEY, LANES, LOWER, REST, UPPER

THRESHOLD, COUNT = LOW, N_HIGH
"""What `select` knows of each lane."""


@making
def select(tile, k, used):
    """What is known of each lane, int32 [KNOWN, LANES]: THRESHOLD and COUNT. Lanes from `used` on mean nothing.

    The threshold is the smallest, as the bits of a magnitude, that at most k numbers reach, or one that k do; the count
    is how many reach it.
    """
    state = np.empty((KNOWN, LANES), np.int32)
    find(tile[UPPER], k, used, state)
    _settle(tile, k, state)
    return state


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

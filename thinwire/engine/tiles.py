"""Tiles of activations, one token a lane: numbers as halves of their bits. Parts of CPU kernels.

Upper halves, as keys, are in the order of magnitudes, and twice as many are a vector.
"""

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

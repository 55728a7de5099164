"""Tiles of activations: a stretch of tokens, all rows of it, one behind the other. Parts of CPU kernels."""

import numpy as np

from thinwire.engine.jit import inner, making
from thinwire.engine.stretches import LINE, MAGNITUDE
from thinwire.engine.vectors import SIZE

TOKENS = SIZE
"""Tokens of a tile, float32 [width, TOKENS], which are the lanes of its rows."""
NUMBER = 4
"""Bytes of a float."""


@making
def empty_tile(width):
    """A tile whose rows are whole lines of the cache; what is in it has no meaning."""
    numbers = np.empty(width * TOKENS + LINE // NUMBER, np.float32)
    first = -numbers.ctypes.data % LINE // NUMBER
    return numbers[first : first + width * TOKENS].reshape((width, TOKENS))


@inner
def count_nonzeros(tile, count):
    """How many numbers of each lane are not zero."""
    for lane in range(len(count)):
        count[lane] = 0
    for i in range(len(tile)):
        row = tile[i]
        for lane in range(len(count)):
            count[lane] += np.int32(row[lane] != 0)


@inner
def drop_ties(tile, lane, tied, kept):
    """Zero the numbers of a lane that have the tied magnitude, as bits, all but the first so many."""
    bits = tile.view(np.int32)
    for i in range(len(bits)):
        if (bits[i, lane] & np.int32(MAGNITUDE)) == tied:
            if kept <= 0:
                bits[i, lane] = 0
            kept -= 1

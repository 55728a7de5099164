"""Tiles of activations: a stretch of tokens, all rows of it, one behind the other; how tokens are shared out in them.

Parts of CPU kernels.
"""

import numpy as np

from thinwire.engine.jit import inlined, inner, making
from thinwire.engine.stretches import (
    LINE,
    MAGNITUDE,
    flags_of,
    store_past,
    store_stretch,
    store_until,
    stretch,
    stretch_until,
)
from thinwire.engine.vectors import SIZE

TOKENS = SIZE
"""Tokens of a tile, float32 [width, TOKENS], which are the lanes of its rows."""
NUMBER = 4
"""Bytes of a float."""
LARGE = 1 << 20
"""Numbers of a result that is written past the caches, since they would not hold it until it is read."""


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


@inlined
def part(row, begin, end):
    """row[begin:end], zeros after it if that is less than a stretch."""
    return stretch(row, begin) if end - begin == TOKENS else stretch_until(row, begin, end)


@inlined
def put(x, begin, end, past, row):
    """row[begin:end] = x, a stretch, `past` the caches or not."""
    if end - begin < TOKENS:
        store_until(row, begin, end, x)
    elif past:
        store_past(row, begin, x)
    else:
        store_stretch(row, begin, x)


@making
def is_past(out):
    """Whether a result is to be written past the caches: a large one, of whole lines."""
    return out.size >= LARGE and (out.ctypes.data | (out.shape[-1] * NUMBER)) % LINE == 0


@inner
def n_tiles(n):
    """How many tiles n tokens make."""
    return (n + TOKENS - 1) // TOKENS


@inner
def tokens_of(group, n, trials, stretches):
    """The first token of a tile of one trial, of so many stretches each, and the one after the last; of n tokens."""
    length = n // trials
    begin = group // stretches * length + group % stretches * TOKENS
    return begin, min((group // stretches + 1) * length, begin + TOKENS)


@inner
def n_jobs(groups, threads):
    """In how many parts threads share groups of work: a few each, since every part makes its own scratch."""
    return min(groups, 2 * threads)


@inlined
def flags_part(flags, begin, end, spare):
    """flags[begin:end], int8, as numbers, zeros after them."""
    if end - begin == TOKENS:
        return flags_of(flags, begin)
    for t in range(end - begin):
        spare[0, t] = flags[begin + t]
    return part(spare[0], 0, end - begin)

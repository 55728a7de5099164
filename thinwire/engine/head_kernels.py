"""Parts of the CPU kernels of attention: a head of a sequence where it lies close together, and its zeros."""

import numpy as np

from thinwire.engine.ahead import read_ahead
from thinwire.engine.jit import inlined, inner, making
from thinwire.engine.product_kernels import clear, has_nonzero, is_constant
from thinwire.engine.stretches import equal, marked, nonzero, one_more, store_stretch, stretch
from thinwire.engine.tiles import TOKENS, empty_tile, n_tiles, part
from thinwire.engine.vectors import VECTOR, everywhere

SEQUENCES = 8
"""Short sequences ahead of the one in use."""
BITS, ALL = 32, 2**64 - 1
"""Channels whose marks are together, and marks of all positions of a tile."""


@inner
def is_zero(x, h, b):
    """Whether all channels of a head are zero at all positions of a sequence."""
    for d in range(x.shape[1]):  # noqa: SIM110, numba knows no generators
        if has_nonzero(x[h, d, b]):
            return False
    return True


@inner
def clear_head(x, h, b):
    """Zero a head of a sequence."""
    for d in range(x.shape[1]):
        clear(x[h, d, b])


@inner
def round_up(n, size):
    """n, rounded up to whole blocks of a size."""
    return (n + size - 1) // size * size


@inlined
def head_ahead(x, h, d, b):
    """Ask for a channel of a head of a short sequence a few after b, which lies too near for processors to foresee."""
    if x.shape[3] <= TOKENS:
        read_ahead(x[h, d], b + SEQUENCES, 0, x.shape[3])


@making
def place_head(x):
    """Place for a head of a sequence, as `take_head` leaves it."""
    d_head, tiles = x.shape[1], n_tiles(x.shape[3])
    words = round_up(d_head, BITS) // BITS
    rows = np.zeros((d_head, tiles * TOKENS + VECTOR), np.float32)  # not at a distance of a power of two
    by_channel, by_position = np.empty((d_head, tiles), np.uint64), np.empty((words, tiles * TOKENS), np.uint32)
    return rows, np.empty(d_head, np.float32), by_channel, by_position, np.empty((tiles, d_head + 1), np.uint64)


@inner
def take_head(x, h, b, head):
    """Copy a head of a sequence to rows, and note where it is not zero.

    Channels that are the same at all positions are constants; of others each tile has a bit for each position where
    they are not zero, each position one for each of these channels, BITS together, and each number of channels one for
    each position of a tile where so many are not zero: of loops that are now shorter and now longer the end is not
    foreseen.
    """
    rows, constants, by_channel, by_position, by_number = head
    length = x.shape[3]
    for d in range(len(rows)):  # row by row, as processors foresee
        given = x[h, d, b]
        head_ahead(x, h, d, b)
        constants[d] = given[0] if is_constant(given) else np.float32(0)
        for tile in range(len(by_number)):
            numbers = part(given, tile * TOKENS, min(length, (tile + 1) * TOKENS))
            store_stretch(rows[d], tile * TOKENS, numbers)
            by_channel[d, tile] = nonzero(numbers) if constants[d] == 0 else np.uint64(0)
    floats = by_position.view(np.float32)
    for tile in range(len(by_number)):
        begin, n_found = tile * TOKENS, everywhere(np.float32(0))
        for word in range(len(floats)):
            found = everywhere(np.float32(0))
            for d in range(word * BITS, min((word + 1) * BITS, len(rows))):
                if by_channel[d, tile] != 0:
                    numbers = stretch(rows[d], begin)
                    found, n_found = marked(found, numbers, d - word * BITS), one_more(n_found, numbers)
            store_stretch(floats[word], begin, found)
        there = np.uint64(ALL) >> np.uint64(max(begin + TOKENS - length, 0))
        for n in range(by_number.shape[1]):
            by_number[tile, n] = equal(n_found, np.float32(n)) & there


@making
def place_rows(d_head):
    """Place for a tile of a head: as many rows as whole vectors have; zeros."""
    rows = empty_tile(round_up(d_head, VECTOR))
    rows[:] = 0
    return rows


@making
def place_columns(length, d_head):
    """Place for a head, turned: a row for each position of whole tiles, as wide as whole vectors; zeros."""
    return np.zeros((round_up(length, TOKENS), round_up(d_head, VECTOR)), np.float32)


@inner
def clear_rows(rows):
    """Zero all rows."""
    for i in range(len(rows)):
        clear(rows[i])

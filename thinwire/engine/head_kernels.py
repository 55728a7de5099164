"""Parts of the CPU kernels of attention: a head of a sequence where it lies close together, and its zeros."""

import numpy as np

from thinwire.engine.jit import inner, making
from thinwire.engine.product_kernels import clear, has_nonzero, is_constant
from thinwire.engine.stretches import bits_set, marked, nonzero, store_stretch, stretch
from thinwire.engine.tiles import TOKENS, n_tiles
from thinwire.engine.vectors import VECTOR, everywhere

BITS = 32
"""Channels whose marks are together."""


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


@making
def place_head(x):
    """Place for a head of a sequence, as `take_head` and `name_nonzeros` leave it."""
    d_head, length = x.shape[1], x.shape[3]
    tiles, words = n_tiles(length), round_up(d_head, BITS) // BITS
    rows = np.zeros((d_head, tiles * TOKENS + VECTOR), np.float32)  # not at a distance of a power of two
    by_channel, by_position = np.empty((d_head, tiles), np.uint64), np.empty((words, tiles * TOKENS), np.uint32)
    order, ends = np.empty(length, np.int32), np.empty(d_head + 2, np.int32)
    return rows, np.empty(d_head, np.float32), by_channel, by_position, order, ends


@inner
def take_head(x, h, b, head):
    """Copy a head of a sequence to rows, and note where it is not zero.

    Channels that are the same at all positions are constants; others have zeros there, and a bit for each position of a
    tile where they are not zero.
    """
    rows, constants, by_channel = head[0], head[1], head[2]
    for d in range(len(rows)):
        given, row = x[h, d, b], rows[d]
        for t in range(len(given)):
            row[t] = given[t]
        alike = is_constant(given)
        constants[d] = row[0] if alike else np.float32(0)
        for tile in range(by_channel.shape[1]):
            by_channel[d, tile] = np.uint64(0) if alike else nonzero(stretch(row, tile * TOKENS))


@inner
def name_nonzeros(head):
    """Note for each position which channels are not zero there, but for constants: a bit for each, BITS together.

    The order has the positions of each tile by how many that are, since of loops that are now shorter and now longer
    the end is not foreseen.
    """
    rows, _, by_channel, by_position, order, ends = head
    floats = by_position.view(np.float32)
    for tile in range(by_channel.shape[1]):
        for word in range(len(floats)):
            found = everywhere(np.float32(0))
            for d in range(word * BITS, min((word + 1) * BITS, len(rows))):
                if by_channel[d, tile] != 0:
                    found = marked(found, stretch(rows[d], tile * TOKENS), d - word * BITS)
            store_stretch(floats[word], tile * TOKENS, found)
        _put_in_order(by_position, tile * TOKENS, min((tile + 1) * TOKENS, len(order)), order, ends)


@inner
def _put_in_order(by_position, begin, end, order, ends):
    """order[begin:end] = these positions, by how many bits they have."""
    for n in range(len(ends)):
        ends[n] = 0
    for t in range(begin, end):
        ends[_n_set(by_position, t) + 1] += 1
    ends[0] = begin
    for n in range(1, len(ends)):
        ends[n] += ends[n - 1]
    for t in range(begin, end):
        n = _n_set(by_position, t)
        order[ends[n]] = t
        ends[n] += 1


@inner
def _n_set(by_position, t):
    n = 0
    for word in range(len(by_position)):
        n += bits_set(np.uint64(by_position[word, t]))
    return n


@making
def place_columns(x):
    """Place for a head of a sequence, turned: a row for each position, as wide as whole vectors; zeros."""
    return np.zeros((round_up(x.shape[3], TOKENS), round_up(x.shape[1], VECTOR)), np.float32)


@inner
def copy_columns(x, h, b, scale, out):
    """Copy a head of a sequence, turned, times a scale."""
    for d in range(x.shape[1]):
        row = x[h, d, b]
        for s in range(len(row)):
            out[s, d] = scale * row[s]


@inner
def put_columns(columns, out, h, b):
    """Write a head of a sequence from where it lies turned."""
    for d in range(out.shape[1]):
        made = out[h, d, b]
        for s in range(len(made)):
            made[s] = columns[s, d]


@inner
def clear_rows(rows):
    """Zero all rows."""
    for i in range(len(rows)):
        clear(rows[i])

"""Parts of the CPU kernels of attention: a head of a sequence, copied to where its channels lie close together.

Channels that are zero at all positions are left out, and what is left ends in whole vectors.
"""

import numpy as np

from thinwire.engine.block_kernels import ROWS
from thinwire.engine.jit import inner, making
from thinwire.engine.product_kernels import clear, has_nonzero
from thinwire.engine.vectors import VECTOR


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
def name_live(x, h, b, names):
    """Name the channels of a head that are not zero at all positions of a sequence; returns how many."""
    n = 0
    for d in range(x.shape[1]):
        names[n] = d
        n += np.int64(has_nonzero(x[h, d, b]))
    return n


@inner
def round_up(n, size):
    """n, rounded up to whole blocks of a size."""
    return (n + size - 1) // size * size


@making
def place_rows(x):
    """Place for the channels of a head: a row each, whole blocks of them; zeros behind the last position.

    Between rows is a vector, since rows at a distance of a power of two would share few places of the cache.
    """
    return np.zeros((round_up(x.shape[1], ROWS), round_up(x.shape[3], VECTOR) + VECTOR), np.float32)


@making
def place_columns(x):
    """The same, turned: a row for each position."""
    return np.zeros((round_up(x.shape[3], VECTOR), round_up(x.shape[1], VECTOR)), np.float32)


@making
def place_of_queries(x):
    """Place for a number of each query of a block and each position, or channel, whichever are more."""
    return np.empty((ROWS, round_up(max(x.shape[1], x.shape[3]), VECTOR)), np.float32)


@making
def place_names(x):
    """Place for the names of channels."""
    return np.empty(x.shape[1], np.int64)


@inner
def copy_rows(x, h, b, channels, scale, out):
    """A row of out for each of the channels, times a scale."""
    for i in range(len(channels)):
        row, made = x[h, channels[i], b], out[i]
        for s in range(len(row)):
            made[s] = scale * row[s]


@inner
def copy_columns(x, h, b, channels, out):
    """A column of out for each of the channels."""
    for i in range(len(channels)):
        row = x[h, channels[i], b]
        for s in range(len(row)):
            out[s, i] = row[s]


@inner
def clear_rows(rows, n):
    """Zero the first n, and what belongs to their last block."""
    for i in range(round_up(n, ROWS)):
        clear(rows[i])


@inner
def put_rows(rows, channels, out, h, b):
    """Write each row where its channel lies."""
    for i in range(len(channels)):
        row, made = rows[i], out[h, channels[i], b]
        for s in range(len(made)):
            made[s] = row[s]

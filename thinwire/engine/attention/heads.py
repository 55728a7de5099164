"""One head of one sequence, copied to contiguous memory, with indices of its nonzeros. Parts of attention kernels."""

import numpy as np

from thinwire.engine.attention.records import Head
from thinwire.engine.jit import allocating, device_function, inline_function
from thinwire.engine.simd.lanes import equal_lanes, increment_where_nonzero, nonzero_lanes, set_bit_where_nonzero
from thinwire.engine.simd.memory import load, store
from thinwire.engine.simd.prefetch import prefetch_read
from thinwire.engine.simd.rows import clear, has_nonzero, is_constant
from thinwire.engine.simd.tiles import TOKENS, empty_tile, load_range, n_tiles
from thinwire.engine.simd.vectors import REGISTER_LANES, broadcast

SEQUENCES = 8
"""How many short sequences before its use a head is prefetched."""
BITS, ALL = 32, 2**64 - 1
"""Channels whose bits share a word of `Head.by_position`; the bits of all positions of a tile."""


@device_function
def is_zero(x, h, b):
    """Whether all channels of head h are zero at all positions of sequence b, of x [head, d_head, batch, pos]."""
    for d in range(x.shape[1]):  # noqa: SIM110, numba knows no generators
        if has_nonzero(x[h, d, b]):
            return False
    return True


@device_function
def clear_head(x, h, b):
    """Zero head h of sequence b."""
    for d in range(x.shape[1]):
        clear(x[h, d, b])


@device_function
def round_up(n, size):
    """The next multiple of `size` from n on."""
    return (n + size - 1) // size * size


@inline_function
def prefetch_head(x, h, d, b):
    """Prefetch channel d of head h, a few sequences after b; the processor does not where sequences are short."""
    if x.shape[3] <= TOKENS:
        prefetch_read(x[h, d], b + SEQUENCES, 0, x.shape[3])


@allocating
def empty_head(x):
    """An uninitialized `Head` for a head of x [head, d_head, batch, pos]."""
    d_head, tiles = x.shape[1], n_tiles(x.shape[3])
    words = round_up(d_head, BITS) // BITS
    rows = np.zeros((d_head, tiles * TOKENS + REGISTER_LANES), np.float32)  # rows a power of two apart share cache sets
    by_channel, by_position = np.empty((d_head, tiles), np.uint64), np.empty((words, tiles * TOKENS), np.uint32)
    return Head(rows, np.empty(d_head, np.float32), by_channel, by_position, np.empty((tiles, d_head + 1), np.uint64))


@device_function
def load_head(x, h, b, head):
    """Copy head h of sequence b of x [head, d_head, batch, pos], and index its nonzeros.

    Loops over positions go by how many channels are nonzero there: the processor predicts the end of a loop whose
    length does not change.
    """
    length, tiles = x.shape[3], len(head.by_count)
    for d in range(len(head.rows)):  # row by row, as the processor prefetches
        row = x[h, d, b]
        prefetch_head(x, h, d, b)
        head.constants[d] = row[0] if is_constant(row) else np.float32(0)
        for tile in range(tiles):
            values = load_range(row, tile * TOKENS, min(length, (tile + 1) * TOKENS))
            store(head.rows[d], tile * TOKENS, values)
            head.by_channel[d, tile] = nonzero_lanes(values) if head.constants[d] == 0 else np.uint64(0)
    words = head.by_position.view(np.float32)
    for tile in range(tiles):
        begin, count = tile * TOKENS, broadcast(np.float32(0))
        for word in range(len(words)):
            bits = broadcast(np.float32(0))
            for d in range(word * BITS, min((word + 1) * BITS, len(head.rows))):
                if head.by_channel[d, tile] != 0:
                    values = load(head.rows[d], begin)
                    bits = set_bit_where_nonzero(bits, values, d - word * BITS)
                    count = increment_where_nonzero(count, values)
            store(words[word], begin, bits)
        inside = np.uint64(ALL) >> np.uint64(max(begin + TOKENS - length, 0))
        for n in range(head.by_count.shape[1]):
            head.by_count[tile, n] = equal_lanes(count, np.float32(n)) & inside


@allocating
def zero_tile(d_head):
    """A tile of zeros with as many rows as whole registers have."""
    rows = empty_tile(round_up(d_head, REGISTER_LANES))
    rows[:] = 0
    return rows


@allocating
def zero_positions(length, d_head):
    """Zeros, a row for each position of whole tiles, as wide as whole registers."""
    return np.zeros((round_up(length, TOKENS), round_up(d_head, REGISTER_LANES)), np.float32)

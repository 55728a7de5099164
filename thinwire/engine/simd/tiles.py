"""Tiles of activations, and how kernels share tokens out in them.

A tile is `TOKENS` tokens by all channels: float32 [width, TOKENS], a vector of tokens for each channel. It lies in the
cache while a kernel works on it. Parts of CPU kernels.
"""

import numpy as np

from thinwire.engine.jit import allocating, device_function, inline_function
from thinwire.engine.simd.lanes import MAGNITUDE_BITS
from thinwire.engine.simd.memory import CACHE_LINE, load, load_flags, load_masked, store, store_masked, store_streaming
from thinwire.engine.simd.vectors import LANES

TOKENS = LANES
"""Tokens of a tile, one a lane."""
FLOAT_BYTES = 4
"""Bytes of a float32."""
STREAMED_SIZE = 1 << 20
"""Numbers from which a result is written with streaming stores, since caches would not hold it until it is read."""


@allocating
def empty_tile(width):
    """An uninitialized tile [width, TOKENS] whose rows begin cache lines."""
    buffer = np.empty(width * TOKENS + CACHE_LINE // FLOAT_BYTES, np.float32)
    first = -buffer.ctypes.data % CACHE_LINE // FLOAT_BYTES
    return buffer[first : first + width * TOKENS].reshape((width, TOKENS))


@device_function
def count_nonzeros(tile, counts):
    """counts[lane] = how many channels of each token are not zero."""
    for lane in range(len(counts)):
        counts[lane] = 0
    for i in range(len(tile)):
        row = tile[i]
        for lane in range(len(counts)):
            counts[lane] += np.int32(row[lane] != 0)


@device_function
def drop_ties(tile, lane, tied, kept):
    """Zero the channels of a token whose magnitude has the bits `tied`, all but the first `kept` of them."""
    bits = tile.view(np.int32)
    for i in range(len(bits)):
        if (bits[i, lane] & np.int32(MAGNITUDE_BITS)) == tied:
            if kept <= 0:
                bits[i, lane] = 0
            kept -= 1


@inline_function
def load_range(row, begin, end):
    """row[begin:end] as a vector, zeros behind it where that is less than a vector."""
    return load(row, begin) if end - begin == TOKENS else load_masked(row, begin, end)


@inline_function
def store_range(x, begin, end, streaming, row):
    """row[begin:end] = x; whole vectors with a streaming store if asked for."""
    if end - begin < TOKENS:
        store_masked(row, begin, end, x)
    elif streaming:
        store_streaming(row, begin, x)
    else:
        store(row, begin, x)


@inline_function
def load_flag_range(flags, begin, end, spare):
    """flags[begin:end], int8, as a vector of floats, zeros behind it; `spare` is a row of scratch [1, TOKENS]."""
    if end - begin == TOKENS:
        return load_flags(flags, begin)
    for t in range(end - begin):
        spare[0, t] = flags[begin + t]
    return load_range(spare[0], 0, end - begin)


@allocating
def is_streamed(out):
    """Whether a result is written with streaming stores: it is large, and its rows begin cache lines."""
    return out.size >= STREAMED_SIZE and (out.ctypes.data | (out.shape[-1] * FLOAT_BYTES)) % CACHE_LINE == 0


@device_function
def n_tiles(n):
    """How many tiles n tokens fill."""
    return (n + TOKENS - 1) // TOKENS


@device_function
def token_range(group, n, trials, tiles):
    """First and last + 1 token of tile number `group`, where n tokens are `trials` equal runs of `tiles` tiles each.

    No tile has tokens of two trials.
    """
    length = n // trials
    begin = group // tiles * length + group % tiles * TOKENS
    return begin, min((group // tiles + 1) * length, begin + TOKENS)


@device_function
def n_jobs(groups, threads):
    """Into how many parts threads share groups of work: two a thread, since each part allocates its own scratch."""
    return min(groups, 2 * threads)

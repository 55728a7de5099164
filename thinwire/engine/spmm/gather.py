"""CPU kernel that gathers rows of a dense table as feature-major activations."""

import numpy as np
from numba import prange

from thinwire.engine.jit import device_function, kernel
from thinwire.engine.simd.blocks import transpose
from thinwire.engine.simd.memory import fence, load, store
from thinwire.engine.simd.tiles import TOKENS, empty_tile, is_streamed, load_range, n_jobs, n_tiles, store_range

ONE = np.float32(1)


@kernel
def gather_table(table, tokens, threads, out):
    """out [width, n]: column t is row `tokens[t]` of a table [rows, width]."""
    width, n = out.shape
    across = n_tiles(width)
    blocks, streaming = n_tiles(n) * across, is_streamed(out)
    jobs = n_jobs(blocks, threads)
    for job in prange(jobs):
        rows, transposed = empty_tile(TOKENS), empty_tile(TOKENS)
        for block in range(job * blocks // jobs, (job + 1) * blocks // jobs):
            begin, first = block // across * TOKENS, block % across * TOKENS
            end, last = min(n, begin + TOKENS), min(width, first + TOKENS)
            _copy_block(table, tokens[begin:end], first, last, rows)
            transpose(rows, ONE, transposed)
            _store_block(transposed, begin, end, first, last, streaming, out)
        fence()


@device_function
def _copy_block(table, tokens, first, last, rows):
    """rows[t] = table[tokens[t], first:last]."""
    for t in range(len(tokens)):
        store(rows[t], 0, load_range(table[tokens[t]], first, last))


@device_function
def _store_block(block, begin, end, first, last, streaming, out):
    """out[first:last, begin:end] = the first rows of a block."""
    for i in range(first, last):
        store_range(load(block[i - first], 0), begin, end, streaming, out[i])

"""CPU kernel that takes rows of a dense table as feature-major activations."""

import numpy as np
from numba import prange

from thinwire.engine.block_kernels import turn
from thinwire.engine.jit import inner, kernel
from thinwire.engine.stretches import fence, store_stretch, stretch
from thinwire.engine.tiles import TOKENS, empty_tile, is_past, n_jobs, n_tiles, part, put

ONE = np.float32(1)


@kernel
def gather_table(table, tokens, threads, out):
    """out [width, n]: column t is row `tokens[t]` of a table [rows, width]."""
    width, n = out.shape
    across = n_tiles(width)
    blocks, past = n_tiles(n) * across, is_past(out)
    jobs = n_jobs(blocks, threads)
    for job in prange(jobs):
        rows, turned = empty_tile(TOKENS), empty_tile(TOKENS)
        for block in range(job * blocks // jobs, (job + 1) * blocks // jobs):
            begin, first = block // across * TOKENS, block % across * TOKENS
            _gather_block(table, tokens, begin, first, past, rows, turned, out)
        fence()


@inner
def _gather_block(table, tokens, begin, first, past, rows, turned, out):
    """`gather_table` for a tile of tokens and as many channels."""
    end, last = min(out.shape[1], begin + TOKENS), min(len(out), first + TOKENS)
    for t in range(begin, end):
        store_stretch(rows[t - begin], 0, part(table[tokens[t]], first, last))
    turn(rows, ONE, turned)
    for i in range(first, last):
        put(stretch(turned[i - first], 0), begin, end, past, out[i])

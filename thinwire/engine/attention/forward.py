"""CPU kernel of causal attention on feature-major activations, one head of one sequence at a time.

A vector of queries passes through the positions it sees, tile by tile: only nonzero channels of keys and values are
multiplied. Scores become weights in registers, so what is subtracted from scores must be known before: the score of the
first position, which every query sees, until a score is far above it. A head in which all queries are zero, or all keys
equal, attends uniformly: its outputs are running means.
"""

import math

import numpy as np
from numba import prange

from thinwire.engine.attention.heads import BITS, clear_head, empty_head, is_zero, load_head, prefetch_head
from thinwire.engine.attention.records import ForwardScratch
from thinwire.engine.attention.uniform import attend_uniform, has_equal_keys
from thinwire.engine.jit import allocating, device_function, inline_function, reassociating_kernel
from thinwire.engine.simd.exp2 import LOG2_E, exp2
from thinwire.engine.simd.lanes import any_greater, lowest_bit, where_visible
from thinwire.engine.simd.memory import fence, load, store
from thinwire.engine.simd.tiles import TOKENS, empty_tile, is_streamed, load_range, n_jobs, n_tiles, store_range
from thinwire.engine.simd.vectors import broadcast, maximum

MAX_EXPONENT = np.float32(60)
"""How far, in powers of two, a score may be above what is subtracted: sums of weights times values stay finite."""
ZERO, ONE, LOWEST = np.float32(0), np.float32(1), np.float32(-np.inf)


@reassociating_kernel
def attend(inputs, threads, result):
    """Write what all heads return: see `AttentionInput` and `AttentionResult`.

    Without log sums, heads whose values are zero are skipped.
    """
    batch, heads = inputs.k.shape[2], inputs.k.shape[0] * inputs.k.shape[2]
    jobs = n_jobs(heads, threads)
    for job in prange(jobs):
        scratch = _empty_scratch(inputs, result)
        for head in range(job * heads // jobs, (job + 1) * heads // jobs):
            h, b = head // batch, head % batch
            if result.log_sums.size == 0 and is_zero(inputs.v, h, b):
                clear_head(result.out, h, b)
            elif has_equal_keys(inputs.k, h, b) or is_zero(inputs.q, h, b):
                attend_uniform(inputs, result, h, b)
            else:
                _attend_head(inputs, result, h, b, scratch)
        fence()


@allocating
def _empty_scratch(inputs, result):
    d_head = inputs.k.shape[1]
    tiles = empty_tile(d_head), empty_tile(d_head), empty_tile(TOKENS), empty_tile(2)
    return ForwardScratch(*tiles, empty_head(inputs.k), empty_head(inputs.v), is_streamed(result.out))


@device_function
def _attend_head(inputs, result, h, b, scratch):
    """`attend` for one head of a sequence."""
    queries, means, weights, rows, keys, values, streaming = scratch
    sink, out, n_queries = inputs.sink, result.out, inputs.q.shape[3]
    load_head(inputs.k, h, b, keys)
    load_head(inputs.v, h, b, values)
    for begin in range(0, n_queries, TOKENS):
        end = min(n_queries, begin + TOKENS)
        fewest, tiles = count_visible(inputs.queries, b, begin, end, inputs.k.shape[3], rows[0])
        visible = load(rows[0], 0)
        for d in range(len(queries)):
            prefetch_head(inputs.q, h, d, b)
            store(queries[d], 0, load_range(inputs.q[h, d, b], begin, end) * (inputs.scale * LOG2_E))
            store(means[d], 0, broadcast(ZERO))
        base = constant_part(keys, queries)
        shift = add_channels(keys, queries, 0, base)
        shift = maximum(shift, sink[h] * LOG2_E) if sink.size else shift
        sums = exp2(broadcast(sink[h] * LOG2_E) - shift) if sink.size else broadcast(ZERO)
        shares = broadcast(ZERO)
        for tile in range(tiles):
            span = tile, fewest, visible
            more, top = weigh(keys, queries, base, shift, span, weights)
            if any_greater(top - shift, MAX_EXPONENT):  # computed again, with more subtracted in those lanes
                higher = maximum(shift, top - MAX_EXPONENT)
                lower = exp2(shift - higher)
                shift, shares, sums = higher, shares * lower, sums * lower
                for d in range(len(means)):
                    store(means[d], 0, load(means[d], 0) * lower)
                more, _ = weigh(keys, queries, base, shift, span, weights)
            shares += more
            add_nonzeros(values, tile, weights, means)
        sums = sums + shares
        normal = broadcast(ONE) / sums
        shares = shares * normal
        for d in range(len(means)):
            y = load(means[d], 0) * normal + values.constants[d] * shares
            store_range(y, begin, end, streaming, out[h, d, b])
        if result.log_sums.size:
            store(rows[0], 0, sums)
            store(rows[1], 0, shift)
            for t in range(begin, end):
                log_sum = np.float32(math.log(rows[0, t - begin])) * LOG2_E
                result.log_sums[h, b, t] = rows[1, t - begin] + log_sum


@inline_function
def constant_part(head, rows):
    """Σ over the constant channels of a head of the constant times the row, a vector."""
    y = broadcast(ZERO)
    for d in range(len(head.constants)):
        if head.constants[d] != 0:
            y += head.constants[d] * load(rows[d], 0)
    return y


@inline_function
def add_channels(head, rows, j, y):
    """y + Σ over the varying channels of position j of a head that are not zero of the value times the row."""
    for word in range(len(head.by_position)):
        bits = np.uint64(head.by_position[word, j])
        while bits != 0:
            d = BITS * word + lowest_bit(bits)
            bits &= bits - np.uint64(1)
            y += head.rows[d, j] * load(rows[d], 0)
    return y


@inline_function
def weigh(keys, queries, base, shift, span, weights):
    """weights[j] = 2^(score - shift) of position j of a tile, 0 where a query does not see it.

    `span` is the tile, the positions that all queries see, and how many each sees. Returns the sums of the weights, and
    the largest scores.
    """
    tile, fewest, visible = span
    begin, top, sums = tile * TOKENS, broadcast(LOWEST), broadcast(ZERO)
    for n in range(keys.by_count.shape[1]):
        positions = keys.by_count[tile, n]
        while positions != 0:
            j = lowest_bit(positions)
            positions &= positions - np.uint64(1)
            score = add_channels(keys, queries, begin + j, base)
            if begin >= fewest:
                score = where_visible(score, visible, np.float32(begin + j), LOWEST)
            top = maximum(top, score)
            weight = exp2(score - shift)
            sums += weight
            store(weights[j], 0, weight)
    return sums, top


@device_function
def count_visible(queries, b, begin, end, length, visible):
    """visible = how many positions each query begin … end - 1 sees; 0 in lanes behind them.

    Returns how many positions all see, in whole tiles, and how many tiles any query sees.
    """
    fewest, most = length, 0
    for i in range(TOKENS):
        n = min(length, queries[b, begin + i] + 1) if begin + i < end else 0
        visible[i] = np.float32(n)
        most = max(most, n)
        fewest = min(fewest, n) if begin + i < end else fewest
    return fewest // TOKENS * TOKENS, n_tiles(most)


@inline_function
def add_nonzeros(head, tile, weights, out):
    """out[d] += Σ over positions of a tile where varying channel d is not zero of the value times weights[position]."""
    for d in range(len(head.by_channel)):
        bits = head.by_channel[d, tile]
        if bits != 0:
            y = load(out[d], 0)
            while bits != 0:
                j = lowest_bit(bits)
                bits &= bits - np.uint64(1)
                y += head.rows[d, tile * TOKENS + j] * load(weights[j], 0)
            store(out[d], 0, y)

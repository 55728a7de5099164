"""CPU kernel of the backward pass through causal attention: see `forward`.

The weights between a vector of queries and a tile of positions are computed again, and lie in the cache until all
gradients have them.
"""

import numpy as np
from numba import prange

from thinwire.engine.attention.forward import add_channels, add_nonzeros, constant_part, count_visible, weigh
from thinwire.engine.attention.heads import (
    clear_head,
    empty_head,
    is_zero,
    load_head,
    prefetch_head,
    round_up,
    zero_positions,
    zero_tile,
)
from thinwire.engine.attention.records import BackwardScratch, HeadSide
from thinwire.engine.attention.uniform import LN_2, has_equal_keys, uniform_backward
from thinwire.engine.jit import allocating, device_function, inline_function, reassociating_kernel
from thinwire.engine.simd.blocks import BLOCK_ROWS, add_block, transpose
from thinwire.engine.simd.exp2 import LOG2_E, exp2
from thinwire.engine.simd.lanes import lowest_bit, sum_lanes, where_visible
from thinwire.engine.simd.memory import fence, load, store
from thinwire.engine.simd.rows import clear_rows
from thinwire.engine.simd.tiles import TOKENS, empty_tile, is_streamed, load_range, n_jobs, store_range
from thinwire.engine.simd.vectors import REGISTER_LANES, broadcast

ZERO, ONE = np.float32(0), np.float32(1)


@reassociating_kernel
def attend_backward(inputs, result, grad, threads, gradients):
    """Write the gradients of `attend`, from its result and the gradient `grad` of `result.out`."""
    batch, heads = inputs.k.shape[2], inputs.k.shape[0] * inputs.k.shape[2]
    jobs = n_jobs(heads, threads)
    for job in prange(jobs):
        scratch = _empty_scratch(inputs, gradients)
        for head in range(job * heads // jobs, (job + 1) * heads // jobs):
            h, b = head // batch, head % batch
            has_gradient = not is_zero(grad, h, b)
            if has_gradient and not has_equal_keys(inputs.k, h, b):
                _head_backward(inputs, result, grad, gradients, h, b, scratch)
                continue
            clear_head(gradients.q, h, b)
            clear_head(gradients.k, h, b)
            clear_head(gradients.v, h, b)
            if has_gradient:
                uniform_backward(inputs, result.log_sums, grad, gradients, h, b)
        fence()


@allocating
def _empty_scratch(inputs, gradients):
    d_head, length = inputs.k.shape[1], inputs.k.shape[3]
    # zeros, since rows that nothing reads are multiplied too: denormal numbers take a hundred times as long
    keys = HeadSide(empty_head(inputs.k), zero_positions(TOKENS, d_head), zero_positions(length, d_head))
    values = HeadSide(empty_head(inputs.v), zero_positions(TOKENS, d_head), zero_positions(length, d_head))
    return BackwardScratch(
        zero_tile(d_head),
        zero_tile(d_head),
        zero_tile(d_head),
        zero_tile(TOKENS),
        zero_tile(TOKENS),
        empty_tile(1),
        keys,
        values,
        is_streamed(gradients.q),
        is_streamed(gradients.k) and is_streamed(gradients.v),
    )


@device_function
def _head_backward(inputs, result, grad, gradients, h, b, scratch):
    """`attend_backward` for one head of a sequence."""
    n_queries, length, visible = inputs.q.shape[3], inputs.k.shape[3], scratch.rows[0]
    keys, values, d_queries = scratch.keys.head, scratch.values.head, scratch.d_queries
    load_head(inputs.k, h, b, keys)
    load_head(inputs.v, h, b, values)
    clear_rows(scratch.keys.gradient)
    clear_rows(scratch.values.gradient)
    for begin in range(0, n_queries, TOKENS):
        end = min(n_queries, begin + TOKENS)
        fewest, tiles = count_visible(inputs.queries, b, begin, end, length, visible)
        log_sum = load_range(result.log_sums[h, b], begin, end)
        mean = _load_queries(inputs, result.out, grad, h, b, begin, end, scratch)
        balance = broadcast(ZERO)
        if inputs.sink.size:
            share = exp2(broadcast(inputs.sink[h] * LOG2_E) - log_sum)
            balance = where_visible(share * mean, load(visible, 0), ZERO, ZERO)
            gradients.sink[h, b] -= sum_lanes(balance)
        for d in range(inputs.q.shape[1]):
            store(d_queries[d], 0, keys.constants[d] * balance)
        base, grad_base = constant_part(keys, scratch.queries), constant_part(values, scratch.grad)
        for tile in range(tiles):
            weigh(keys, scratch.queries, base, log_sum, (tile, fewest, load(visible, 0)), scratch.weights)
            _score_gradients(values, grad_base, mean, tile, scratch)
            add_nonzeros(keys, tile, scratch.d_scores, d_queries)
            span = tile * TOKENS, min((tile + 1) * TOKENS, length), fewest
            _add_sums(scratch.weights, span, visible, end - begin, scratch.values)
            _add_sums(scratch.d_scores, span, visible, end - begin, scratch.keys)
        for d in range(inputs.q.shape[1]):
            d_query = load(d_queries[d], 0) * inputs.scale
            store_range(d_query, begin, end, scratch.streaming_queries, gradients.q[h, d, b])
    _store_transposed(scratch.keys.gradient, LN_2, scratch.streaming_keys, d_queries, gradients.k[h, :, b])
    _store_transposed(scratch.values.gradient, ONE, scratch.streaming_keys, d_queries, gradients.v[h, :, b])


@device_function
def _load_queries(inputs, out, grad, h, b, begin, end, scratch):
    """Load queries begin … end - 1 and their gradients, by channel and by query; returns Σ grad · out of each."""
    mean = broadcast(ZERO)
    for d in range(inputs.q.shape[1]):
        for each in (inputs.q, grad, out):
            prefetch_head(each, h, d, b)
        x = load_range(grad[h, d, b], begin, end)
        mean += x * load_range(out[h, d, b], begin, end)
        store(scratch.grad[d], 0, x)
        store(scratch.queries[d], 0, load_range(inputs.q[h, d, b], begin, end) * (inputs.scale * LOG2_E))
    transpose(scratch.queries, ONE, scratch.keys.query_rows)
    transpose(scratch.grad, ONE, scratch.values.query_rows)
    return mean


@inline_function
def _score_gradients(values, base, mean, tile, scratch):
    """d_scores[j] = the gradients of scores of position j of a tile: weight · (gradient of the weight - their mean)."""
    for n in range(values.by_count.shape[1]):
        positions = values.by_count[tile, n]
        while positions != 0:
            j = lowest_bit(positions)
            positions &= positions - np.uint64(1)
            d_weight = add_channels(values, scratch.grad, tile * TOKENS + j, base) - mean
            store(scratch.d_scores[j], 0, d_weight * load(scratch.weights[j], 0))


@inline_function
def _add_sums(p, span, visible, n_queries, side):
    """side.gradient[j] += Σ over queries of side.query_rows[query] · p[j - begin, query], for positions of a tile.

    `span` is first and last + 1 position, and how many positions all queries see.
    """
    begin, end, fewest = span
    for j in range(begin, end, BLOCK_ROWS):  # rows behind the last go where nothing is read
        first = _first_that_sees(j, visible) if j >= fewest else 0
        for d in range(0, side.query_rows.shape[1], REGISTER_LANES):
            left, right = p[j - begin : j - begin + BLOCK_ROWS, first:], side.query_rows[first:]
            add_block(left, right, n_queries - first, d, side.gradient[j : j + BLOCK_ROWS])


@device_function
def _store_transposed(x, factor, streaming, tile, out):
    """out [d_head, length] = factor · the transpose of x, whose sides are whole blocks; `tile` is scratch."""
    length = out.shape[1]
    for begin in range(0, length, TOKENS):
        end = min(length, begin + TOKENS)
        transpose(x[begin : begin + round_up(end - begin, REGISTER_LANES)], factor, tile)
        for d in range(len(out)):
            store_range(load(tile[d], 0), begin, end, streaming, out[d])


@device_function
def _first_that_sees(j, visible):
    """The first query, as a lane, that sees position j; the last lane if none does."""
    first = 0
    while first < TOKENS - 1 and visible[first] <= j:
        first += 1
    return first

"""CPU kernels of causal attention on feature-major activations, one head of one sequence at a time.

A stretch of queries passes through all positions that it sees, a lane for each query: what keys and values are not zero
at is all that is multiplied. A head in which all queries are zero, or all keys the same, attends to everything alike:
its outputs are running means.
"""

import math

import numpy as np
from numba import prange

from thinwire.engine.alike_kernels import alike_backward, attend_alike, is_alike
from thinwire.engine.block_kernels import ROWS, add_product
from thinwire.engine.exponential_kernels import LOG2_E, power_of_two
from thinwire.engine.head_kernels import (
    BITS,
    clear_head,
    clear_rows,
    copy_columns,
    is_zero,
    name_nonzeros,
    place_columns,
    place_head,
    put_columns,
    round_up,
    take_head,
)
from thinwire.engine.jit import inlined, inner, summing
from thinwire.engine.stretches import lowest, store_stretch, stretch, total, where_seen
from thinwire.engine.tiles import TOKENS, empty_tile, n_jobs, n_tiles, part, put
from thinwire.engine.vectors import everywhere, larger

ZERO, ONE, LOWEST = np.float32(0), np.float32(1), np.float32(-np.inf)


@summing
def attend(q, k, v, sink, queries, scale, threads, out, log_sums):
    """out [head, d_head, batch, n_queries] and log_sums [head, batch, n_queries], the logs of the softmax denominators.

    q has the shape of out, k and v are [head, d_head, batch, pos]. The query t of sequence b stands at `queries[b, t]`.
    `sink` [head] is added to each denominator as exp(sink), or is empty. Without any log_sums, heads that move nothing
    are left out.
    """
    batch, heads, d_head, length = k.shape[2], k.shape[0] * k.shape[2], k.shape[1], round_up(k.shape[3], TOKENS)
    jobs = n_jobs(heads, threads)
    for job in prange(jobs):
        asked, means, p, notes = empty_tile(d_head), empty_tile(d_head), empty_tile(length), empty_tile(2)
        places = asked, means, p, notes, place_head(k), place_head(v)
        for head in range(job * heads // jobs, (job + 1) * heads // jobs):
            h, b = head // batch, head % batch
            if log_sums.size == 0 and is_zero(v, h, b):
                clear_head(out, h, b)
            elif is_alike(k, h, b) or is_zero(q, h, b):
                attend_alike(q, k, v, sink, queries, scale, out, log_sums, h, b)
            else:
                _attend_head(q, k, v, sink, queries, scale, out, log_sums, h, b, places)


@inner
def _attend_head(q, k, v, sink, queries, scale, out, log_sums, h, b, places):
    """`attend` for one head of a sequence."""
    asked, means, p, notes, keys, values = places
    take_head(k, h, b, keys)
    name_nonzeros(keys)
    take_head(v, h, b, values)
    for begin in range(0, q.shape[3], TOKENS):
        end = min(q.shape[3], begin + TOKENS)
        fewest, tiles = _see(queries, b, begin, end, k.shape[3], notes[0])
        seen = stretch(notes[0], 0)
        for d in range(len(asked)):
            store_stretch(asked[d], 0, part(q[h, d, b], begin, end) * scale)
            store_stretch(means[d], 0, everywhere(ZERO))
        top = _multiply(keys, asked, seen, fewest, tiles, p)
        top = where_seen(larger(top, sink[h]) if sink.size else top, seen, ZERO, ZERO)
        shares = everywhere(ZERO)
        for tile in range(tiles):
            for j in range(tile * TOKENS, min(k.shape[3], (tile + 1) * TOKENS)):
                weight = _weight(p, j, top, seen, fewest)
                shares += weight
                store_stretch(p[j], 0, weight)
            _add_marked(values, tile, p, means)
        sums = shares + power_of_two((everywhere(sink[h]) - top) * LOG2_E) if sink.size else shares
        size = everywhere(ONE) / sums
        shares = shares * size
        for d in range(len(means)):
            put(stretch(means[d], 0) * size + values[1][d] * shares, begin, end, False, p[0], out[h, d, b])
        if log_sums.size:
            store_stretch(notes[0], 0, sums)
            store_stretch(notes[1], 0, top)
            for t in range(begin, end):
                log_sums[h, b, t] = notes[1, t - begin] + np.float32(math.log(notes[0, t - begin]))


@summing
def attend_backward(q, k, v, sink, queries, scale, log_sums, grad, threads, d_q, d_k, d_v, d_sink):
    """Gradients of `attend`, from `grad` of the shape of q. d_sink is [head, batch], and given as zeros."""
    batch, heads, d_head, length = k.shape[2], k.shape[0] * k.shape[2], k.shape[1], round_up(k.shape[3], TOKENS)
    jobs = n_jobs(heads, threads)
    for job in prange(jobs):
        asked, p, notes = empty_tile(d_head), empty_tile(length), empty_tile(2)
        learning, d_p = empty_tile(d_head), empty_tile(length)
        of_keys = place_head(k), place_columns(q), place_columns(k)
        of_values = place_head(v), place_columns(q), place_columns(v)
        places = asked, p, notes, learning, d_p, of_keys, of_values
        for head in range(job * heads // jobs, (job + 1) * heads // jobs):
            h, b = head // batch, head % batch
            for made in (d_q, d_k, d_v):
                clear_head(made, h, b)
            if is_zero(grad, h, b):
                continue
            if is_alike(k, h, b):
                alike_backward(q, k, v, sink, queries, scale, log_sums, grad, d_q, d_k, d_v, d_sink, h, b)
            else:
                _head_backward(q, k, v, sink, queries, scale, log_sums, grad, d_q, d_k, d_v, d_sink, h, b, places)


@inner
def _head_backward(q, k, v, sink, queries, scale, log_sums, grad, d_q, d_k, d_v, d_sink, h, b, places):
    """`attend_backward` for one head of a sequence."""
    asked, p, notes, learning, d_p, (keys, by_query, d_keys), (values, given, d_values) = places
    for x, taken in ((k, keys), (v, values)):
        take_head(x, h, b, taken)
        name_nonzeros(taken)
    copy_columns(q, h, b, scale, by_query)
    copy_columns(grad, h, b, ONE, given)
    clear_rows(d_keys)
    clear_rows(d_values)
    for begin in range(0, q.shape[3], TOKENS):
        end = min(q.shape[3], begin + TOKENS)
        fewest, tiles = _see(queries, b, begin, end, k.shape[3], notes[0])
        seen, log_sum = stretch(notes[0], 0), part(log_sums[h, b], begin, end)
        for d in range(len(asked)):
            store_stretch(asked[d], 0, part(q[h, d, b], begin, end) * scale)
            store_stretch(learning[d], 0, part(grad[h, d, b], begin, end))
        _multiply(keys, asked, seen, fewest, tiles, p)
        _multiply(values, learning, seen, tiles * TOKENS, tiles, d_p)
        mean, balance = _to_score_gradients(p, d_p, seen, log_sum, fewest, min(k.shape[3], tiles * TOKENS))
        if sink.size:
            share = power_of_two((everywhere(sink[h]) - log_sum) * LOG2_E)
            d_sink[h, b] -= total(where_seen(share * mean, seen, ZERO, ZERO))
        for d in range(len(asked)):
            store_stretch(asked[d], 0, keys[1][d] * balance)
        for tile in range(tiles):
            _add_marked(keys, tile, d_p, asked)
        for d in range(len(asked)):
            put(stretch(asked[d], 0) * scale, begin, end, False, asked[d], d_q[h, d, b])
        for j in range(0, min(k.shape[3], tiles * TOKENS), ROWS):  # rows after the last go where nothing is read
            first = _first_that_sees(j, notes[0]) if j >= fewest else 0
            _add_sums(p, j, first, given, begin, d_values)
            _add_sums(d_p, j, first, by_query, begin, d_keys)
    put_columns(d_keys, d_k, h, b)
    put_columns(d_values, d_v, h, b)


@inner
def _first_that_sees(j, seen):
    """The first of a stretch of queries that sees position j; the last if none does."""
    first = 0
    while first < TOKENS - 1 and seen[first] <= j:
        first += 1
    return first


@inner
def _add_sums(p, j, first, columns, begin, out):
    """out[j:j + ROWS] += Σ over a stretch of queries from the first on of its row of columns times p[j:j + ROWS]."""
    add_product(p[j : j + ROWS, first:], columns[begin + first :], TOKENS - first, columns.shape[1], out[j : j + ROWS])


@inner
def _see(queries, b, begin, end, length, seen):
    """How many positions each query of a stretch sees, none after the last query.

    Returns how many all see, in whole tiles, and how many tiles those are of that any sees.
    """
    fewest, most = length, 0
    for i in range(TOKENS):
        n = min(length, queries[b, begin + i] + 1) if begin + i < end else 0
        seen[i] = np.float32(n)
        most = max(most, n)
        fewest = min(fewest, n) if begin + i < end else fewest
    return fewest // TOKENS * TOKENS, n_tiles(most)


@inlined
def _multiply(head, rows, seen, fewest, tiles, out):
    """out[j] = Σ over channels of position j of a head times the row, a stretch; returns the largest.

    From the position `fewest` on, what is not seen is the lowest.
    """
    numbers, constants, _, by_position, order, _ = head
    top, base = everywhere(LOWEST), everywhere(ZERO)
    for d in range(len(rows)):
        if constants[d] != 0:
            base += constants[d] * stretch(rows[d], 0)
    for place in range(min(len(order), tiles * TOKENS)):
        j, made = order[place], base
        for word in range(len(by_position)):
            marks = np.uint64(by_position[word, j])
            while marks != 0:
                d = BITS * word + lowest(marks)
                marks &= marks - np.uint64(1)
                made += numbers[d, j] * stretch(rows[d], 0)
        if place >= fewest:
            made = where_seen(made, seen, np.float32(j), LOWEST)
        store_stretch(out[j], 0, made)
        top = larger(top, made)
    return top


@inlined
def _weight(p, j, shift, seen, fewest):
    """exp(scores of position j - shift), zeros where not seen. No exponent of what is seen is to be much above zero."""
    weight = power_of_two((stretch(p[j], 0) - shift) * LOG2_E)
    return where_seen(weight, seen, np.float32(j), ZERO) if j >= fewest else weight


@inlined
def _add_marked(head, tile, p, out):
    """out[d] += Σ over positions of a tile where channel d is not zero of the number there times p[position]."""
    numbers, _, by_channel, _, _, _ = head
    for d in range(len(out)):
        marks = by_channel[d, tile]
        if marks != 0:
            made = stretch(out[d], 0)
            while marks != 0:
                j = tile * TOKENS + lowest(marks)
                marks &= marks - np.uint64(1)
                made += numbers[d, j] * stretch(p[j], 0)
            store_stretch(out[d], 0, made)


@inlined
def _to_score_gradients(p, d_p, seen, log_sum, fewest, n):
    """For a stretch of queries: scores p become weights, and d_p, their gradients, those of scores.

    Returns the means that the former gradients have under the weights, and what the latter add up to.
    """
    mean, balance = everywhere(ZERO), everywhere(ZERO)
    for j in range(n):
        weight = _weight(p, j, log_sum, seen, fewest)
        store_stretch(p[j], 0, weight)
        mean += weight * stretch(d_p[j], 0)
    for j in range(n):
        moved = stretch(p[j], 0) * (stretch(d_p[j], 0) - mean)
        store_stretch(d_p[j], 0, moved)
        balance += moved
    return mean, balance

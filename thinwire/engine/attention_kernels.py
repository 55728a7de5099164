"""CPU kernels of causal attention on feature-major activations, one head of one sequence at a time.

Channels that are zero at all positions are left out; what is left is copied to where it lies close together and ends in
whole vectors, and a block of queries goes through dense products. A head in which all queries are zero, or all keys the
same, attends to everything alike: its outputs are running means.
"""

import math

import numpy as np
from numba import prange

from thinwire.engine.alike_kernels import alike_backward, attend_alike, is_alike
from thinwire.engine.block_kernels import ROWS, add_product, set_product
from thinwire.engine.column_kernels import n_jobs
from thinwire.engine.exponential_kernels import LOG2_E, power_of_two
from thinwire.engine.head_kernels import (
    clear_head,
    clear_rows,
    copy_columns,
    copy_rows,
    is_zero,
    name_live,
    place_columns,
    place_names,
    place_of_queries,
    place_rows,
    put_rows,
    round_up,
)
from thinwire.engine.jit import inner, summing
from thinwire.engine.vectors import TOGETHER, VECTOR, each, everywhere, larger, load, maxima, store, totals, until

ZERO, ONE, LOWEST = np.float32(0), np.float32(1), np.float32(-np.inf)


@summing
def attend(q, k, v, sink, queries, scale, threads, out, log_sums):
    """out [head, d_head, batch, n_queries] and log_sums [head, batch, n_queries], the logs of the softmax denominators.

    q has the shape of out, k and v are [head, d_head, batch, pos]. The query t of sequence b stands at `queries[b, t]`.
    `sink` [head] is added to each denominator as exp(sink), or is empty. Without any log_sums, heads that move nothing
    are left out.
    """
    batch, heads = k.shape[2], k.shape[0] * k.shape[2]
    jobs = n_jobs(heads, threads)
    for job in prange(jobs):
        notes = np.empty(ROWS, np.int32), np.empty(ROWS, np.float32), np.empty(ROWS, np.float32)
        places = (
            place_rows(q),
            place_rows(k),
            place_columns(v),
            place_names(q),
            place_names(v),
            place_of_queries(k),
            place_of_queries(v),
            notes,
        )
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
    asked, keys, values, asking, moving, p, means, (seen, shifts, sums) = places
    asking, moving = asking[: name_live(q, h, b, asking)], moving[: name_live(v, h, b, moving)]
    copy_rows(q, h, b, asking, scale, asked)
    copy_rows(k, h, b, asking, ONE, keys)
    copy_columns(v, h, b, moving, values)
    clear_head(out, h, b)
    for begin in range(0, q.shape[3], ROWS):
        n = _see(queries, b, begin, k.shape[3], seen)
        set_product(asked[:, begin : begin + ROWS].T, keys, len(asking), n, p)
        _weigh(p, seen, n, sink, h, shifts, sums)
        if log_sums.size:
            _note(shifts, sums, log_sums[h, b], begin)
        _invert(sums)
        set_product(p, values, n, len(moving), means)
        _write(means, sums, moving, out, h, b, begin)


@summing
def attend_backward(q, k, v, sink, queries, scale, log_sums, grad, threads, d_q, d_k, d_v, d_sink):
    """Gradients of `attend`, from `grad` of the shape of q. d_sink is [head, batch], and given as zeros."""
    batch, heads = k.shape[2], k.shape[0] * k.shape[2]
    jobs = n_jobs(heads, threads)
    for job in prange(jobs):
        of_scores = (
            place_rows(q),
            place_rows(k),
            place_rows(k),
            place_names(q),
            place_columns(k),
            place_names(k),
            place_of_queries(k),
        )
        of_values = (
            place_rows(grad),
            place_rows(v),
            place_rows(v),
            place_names(v),
            place_of_queries(k),
            place_of_queries(k),
        )
        notes = np.empty(ROWS, np.int32), np.empty(ROWS, np.float32), np.empty(ROWS, np.float32)
        places = of_scores, of_values, (*notes, np.full(ROWS, scale, np.float32))
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
    of_scores, of_values, (seen, shifts, means, sizes) = places
    asked, keys, d_keys, asking, by_key, known, d_asked = of_scores
    d_means, values, d_values, learning, p, d_p = of_values
    asking, known = asking[: name_live(q, h, b, asking)], known[: name_live(k, h, b, known)]
    learning = learning[: name_live(grad, h, b, learning)]
    copy_rows(q, h, b, asking, scale, asked)
    copy_rows(k, h, b, asking, ONE, keys)
    copy_columns(k, h, b, known, by_key)
    copy_rows(grad, h, b, learning, ONE, d_means)
    copy_rows(v, h, b, learning, ONE, values)
    clear_rows(d_keys, len(asking))
    clear_rows(d_values, len(learning))
    for begin in range(0, q.shape[3], ROWS):
        n = _see(queries, b, begin, k.shape[3], seen)
        set_product(asked[:, begin : begin + ROWS].T, keys, len(asking), n, p)
        set_product(d_means[:, begin : begin + ROWS].T, values, len(learning), n, d_p)
        _look_up(log_sums[h, b], begin, shifts)
        _to_score_gradients(p, d_p, seen, n, shifts, means)
        if sink.size:
            d_sink[h, b] -= _to_sink(sink[h], seen, shifts, means)
        set_product(d_p, by_key, n, len(known), d_asked)
        _write(d_asked, sizes, known, d_q, h, b, begin)
        _add_outer(d_means, p, begin, len(learning), n, d_values)
        _add_outer(asked, d_p, begin, len(asking), n, d_keys)
    put_rows(d_keys, asking, d_k, h, b)
    put_rows(d_values, learning, d_v, h, b)


@inner
def _see(queries, b, begin, length, seen):
    """How many positions each query of a block sees, none after the last query; returns the most, in whole vectors."""
    most = 0
    for i in range(ROWS):
        seen[i] = min(length, queries[b, begin + i] + 1) if begin + i < queries.shape[1] else 0
        most = max(most, seen[i])
    return round_up(most, VECTOR)


@inner
def _add_outer(weights, p, begin, n_channels, n, out):
    """out [channel, pos] += Σ over a block of queries of weights [channel, query] · p [query, pos]."""
    for first in range(0, n_channels, ROWS):
        add_product(weights[first : first + ROWS, begin : begin + ROWS], p, ROWS, n, out[first : first + ROWS])


@inner
def _weigh(p, seen, n, sink, h, shifts, sums):
    """Replace the scores p of a block of queries by exp(p - shifts), zeros where not seen; sums are denominators."""
    for i in range(0, ROWS, TOGETHER):
        most = everywhere(LOWEST)
        for s in range(0, n, VECTOR):
            most = larger(most, until(load(p, i, s), seen, i, s, LOWEST))
        maxima(most, shifts, i)
        for t in range(i, i + TOGETHER):
            most_of_all = max(shifts[t], sink[h]) if sink.size else shifts[t]
            shifts[t] = most_of_all if seen[t] > 0 else ZERO
        shift, summed = each(shifts, i), everywhere(ZERO)
        for s in range(0, n, VECTOR):
            x = _weights(p, seen, i, s, shift)
            store(p, i, s, x)
            summed += x
        totals(summed, sums, i)
    if sink.size:
        for t in range(ROWS):
            sums[t] += np.float32(math.exp(sink[h] - shifts[t]))


@inner
def _weights(p, seen, i, s, shift):
    """exp(scores - shift), zeros where not seen. No exponent of what is seen is to be much above zero."""
    return until(power_of_two((load(p, i, s) - shift) * LOG2_E), seen, i, s, ZERO)


@inner
def _write(block, sizes, channels, out, h, b, begin):
    """out[h, channels, b, begin:] = block [query, channel], each query times its size."""
    n = min(ROWS, out.shape[3] - begin)
    for i in range(len(channels)):
        row = out[h, channels[i], b, begin : begin + n]
        for t in range(n):
            row[t] = block[t, i] * sizes[t]


@inner
def _note(shifts, sums, log_sums, begin):
    """Write the logs of the denominators of a block of queries."""
    for t in range(min(ROWS, len(log_sums) - begin)):
        log_sums[begin + t] = shifts[t] + np.float32(math.log(sums[t]))


@inner
def _invert(sums):
    for t in range(len(sums)):
        sums[t] = ONE / sums[t]


@inner
def _look_up(log_sums, begin, shifts):
    """The logs of the denominators of a block of queries; zeros after the last."""
    for t in range(ROWS):
        shifts[t] = log_sums[begin + t] if begin + t < len(log_sums) else ZERO


@inner
def _to_score_gradients(p, d_p, seen, n, shifts, means):
    """For a block of queries: scores p become weights, and d_p, their gradients, those of scores.

    `means` are those that the gradients have under the weights.
    """
    for i in range(0, ROWS, TOGETHER):
        shift, summed = each(shifts, i), everywhere(ZERO)
        for s in range(0, n, VECTOR):
            x = _weights(p, seen, i, s, shift)
            store(p, i, s, x)
            summed += x * load(d_p, i, s)
        totals(summed, means, i)
        mean = each(means, i)
        for s in range(0, n, VECTOR):
            store(d_p, i, s, load(p, i, s) * (load(d_p, i, s) - mean))


@inner
def _to_sink(sink, seen, shifts, means):
    """What a block of queries takes from the gradient of a sink."""
    total = ZERO
    for t in range(ROWS):
        if seen[t] > 0:
            total += np.float32(math.exp(sink - shifts[t])) * means[t]
    return total

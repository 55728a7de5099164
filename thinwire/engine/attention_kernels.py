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
from thinwire.engine.exponential_kernels import LOG2_E, power_of_two
from thinwire.engine.jit import inner, making, summing
from thinwire.engine.product_kernels import clear, has_nonzero
from thinwire.engine.vectors import TOGETHER, VECTOR, along, everywhere, larger, load, maxima, store, totals, until

ZERO, ONE, LOWEST = np.float32(0), np.float32(1), np.float32(-np.inf)


@summing
def attend(q, k, v, sink, queries, scale, out, log_sums):
    """out [head, d_head, batch, n_queries] and log_sums [head, batch, n_queries], the logs of the softmax denominators.

    q has the shape of out, k and v are [head, d_head, batch, pos]. The query t of sequence b stands at `queries[b, t]`.
    `sink` [head] is added to each denominator as exp(sink), or is empty. Without any log_sums, heads that move nothing
    are left out.
    """
    n_heads, _, batch, _ = k.shape
    for job in prange(n_heads * batch):
        h, b = job // batch, job % batch
        if log_sums.size == 0 and _is_zero(v, h, b):
            _clear_head(out, h, b)
        elif is_alike(k, h, b) or _is_zero(q, h, b):
            attend_alike(q, k, v, sink, queries, scale, out, log_sums, h, b)
        else:
            _attend_head(q, k, v, sink, queries, scale, out, log_sums, h, b)


@making
def _attend_head(q, k, v, sink, queries, scale, out, log_sums, h, b):
    """`attend` for one head of a sequence."""
    asking, moving = _live(q, h, b), _live(v, h, b)
    asked, keys, values = _rows(q, h, b, asking, scale), _rows(k, h, b, asking, ONE), _columns(v, h, b, moving)
    p, means = np.empty((ROWS, keys.shape[1]), np.float32), np.empty((ROWS, values.shape[1]), np.float32)
    seen, shifts, sums = np.empty(ROWS, np.int32), np.empty((ROWS, 1), np.float32), np.empty(ROWS, np.float32)
    _clear_head(out, h, b)
    for begin in range(0, q.shape[3], ROWS):
        n = _see(queries, b, begin, k.shape[3], seen)
        set_product(asked[:, begin : begin + ROWS].T, keys, len(asking), n, p)
        _weigh(p, seen, n, sink, h, shifts, sums)
        if log_sums.size:
            _note(shifts, sums, log_sums[h, b], begin)
        _invert(sums)
        set_product(p, values, n, values.shape[1], means)
        _write(means, sums, moving, out, h, b, begin)


@summing
def attend_backward(q, k, v, sink, queries, scale, log_sums, grad, d_q, d_k, d_v, d_sink):
    """Gradients of `attend`, from `grad` of the shape of q. d_sink is [head, batch], and given as zeros."""
    n_heads, _, batch, _ = k.shape
    for job in prange(n_heads * batch):
        h, b = job // batch, job % batch
        for made in (d_q, d_k, d_v):
            _clear_head(made, h, b)
        if _is_zero(grad, h, b):
            continue
        if is_alike(k, h, b):
            alike_backward(q, k, v, sink, queries, scale, log_sums, grad, d_q, d_k, d_v, d_sink, h, b)
        else:
            _head_backward(q, k, v, sink, queries, scale, log_sums, grad, d_q, d_k, d_v, d_sink, h, b)


@making
def _head_backward(q, k, v, sink, queries, scale, log_sums, grad, d_q, d_k, d_v, d_sink, h, b):
    """`attend_backward` for one head of a sequence."""
    asking, known, learning = _live(q, h, b), _live(k, h, b), _live(grad, h, b)
    asked, keys, by_key = _rows(q, h, b, asking, scale), _rows(k, h, b, asking, ONE), _columns(k, h, b, known)
    d_means, values = _rows(grad, h, b, learning, ONE), _rows(v, h, b, learning, ONE)
    d_keys, d_values = np.zeros_like(keys), np.zeros_like(values)
    p, d_p = np.empty((ROWS, keys.shape[1]), np.float32), np.empty((ROWS, keys.shape[1]), np.float32)
    seen, shifts, means = np.empty(ROWS, np.int32), np.empty((ROWS, 1), np.float32), np.empty((ROWS, 1), np.float32)
    d_asked, sizes = np.empty((ROWS, by_key.shape[1]), np.float32), np.full(ROWS, scale, np.float32)
    for begin in range(0, q.shape[3], ROWS):
        n = _see(queries, b, begin, k.shape[3], seen)
        set_product(asked[:, begin : begin + ROWS].T, keys, len(asking), n, p)
        set_product(d_means[:, begin : begin + ROWS].T, values, len(learning), n, d_p)
        _look_up(log_sums[h, b], begin, shifts)
        _to_score_gradients(p, d_p, seen, n, shifts, means)
        if sink.size:
            d_sink[h, b] -= _to_sink(sink[h], shifts, means)
        set_product(d_p, by_key, n, by_key.shape[1], d_asked)
        _write(d_asked, sizes, known, d_q, h, b, begin)
        _add_outer(d_means, p, begin, n, d_values)
        _add_outer(asked, d_p, begin, n, d_keys)
    _put_rows(d_keys, asking, d_k, h, b)
    _put_rows(d_values, learning, d_v, h, b)


@inner
def _is_zero(x, h, b):
    """Whether all channels of a head are zero at all positions of a sequence."""
    for d in range(x.shape[1]):  # noqa: SIM110, numba knows no generators
        if has_nonzero(x[h, d, b]):
            return False
    return True


@inner
def _clear_head(x, h, b):
    for d in range(x.shape[1]):
        clear(x[h, d, b])


@making
def _live(x, h, b):
    """The channels of a head that are not zero at all positions of a sequence."""
    names, n = np.empty(x.shape[1], np.int64), 0
    for d in range(x.shape[1]):
        names[n] = d
        n += np.int64(has_nonzero(x[h, d, b]))
    return names[:n]


@inner
def _whole(n, size):
    """n, rounded up to whole blocks of a size."""
    return (n + size - 1) // size * size


@making
def _rows(x, h, b, channels, scale):
    """The channels of a head, times a scale: a row each, with zeros up to whole blocks and, between rows, a vector.

    Rows at a distance of a power of two would share few places of the cache.
    """
    n = x.shape[3]
    out = np.zeros((_whole(len(channels), ROWS), _whole(n, VECTOR) + VECTOR), np.float32)
    _copy_rows(x, h, b, channels, scale, out)
    return out


@inner
def _copy_rows(x, h, b, channels, scale, out):
    for i in range(len(channels)):
        row, made = x[h, channels[i], b], out[i]
        for s in range(len(row)):
            made[s] = scale * row[s]


@inner
def _put_rows(rows, channels, out, h, b):
    for i in range(len(channels)):
        row, made = rows[i], out[h, channels[i], b]
        for s in range(len(made)):
            made[s] = row[s]


@making
def _columns(x, h, b, channels):
    """The same as `_rows`, turned: a row for each position."""
    out = np.zeros((_whole(x.shape[3], VECTOR), _whole(len(channels), VECTOR)), np.float32)
    _copy_columns(x, h, b, channels, out)
    return out


@inner
def _copy_columns(x, h, b, channels, out):
    for i in range(len(channels)):
        row = x[h, channels[i], b]
        for s in range(len(row)):
            out[s, i] = row[s]


@inner
def _see(queries, b, begin, length, seen):
    """How many positions each query of a block sees, none after the last query; returns the most, in whole vectors."""
    most = 0
    for i in range(ROWS):
        seen[i] = min(length, queries[b, begin + i] + 1) if begin + i < queries.shape[1] else 0
        most = max(most, seen[i])
    return _whole(most, VECTOR)


@inner
def _add_outer(weights, p, begin, n, out):
    """out [channel, pos] += Σ over a block of queries of weights [channel, query] · p [query, pos]."""
    for first in range(0, len(out), ROWS):
        add_product(weights[first : first + ROWS, begin : begin + ROWS], p, ROWS, n, out[first : first + ROWS])


@inner
def _weigh(p, seen, n, sink, h, shifts, sums):
    """Replace the scores p of a block of queries by exp(p - shifts), zeros where not seen; the sums are denominators."""
    for i in range(0, ROWS, TOGETHER):
        most = everywhere(LOWEST)
        for s in range(0, n, VECTOR):
            most = larger(most, until(load(p, i, s), seen, i, s, LOWEST))
        maxima(most, shifts[:, 0], i)
        for t in range(i, i + TOGETHER):
            most_of_all = max(shifts[t, 0], sink[h]) if sink.size else shifts[t, 0]
            shifts[t, 0] = most_of_all if seen[t] > 0 else ZERO
        shift, summed = along(shifts, i, 0), everywhere(ZERO)
        for s in range(0, n, VECTOR):
            x = _weights(p, seen, i, s, shift)
            store(p, i, s, x)
            summed += x
        totals(summed, sums, i)
    if sink.size:
        for t in range(ROWS):
            sums[t] += np.float32(math.exp(sink[h] - shifts[t, 0]))


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
        log_sums[begin + t] = shifts[t, 0] + np.float32(math.log(sums[t]))


@inner
def _invert(sums):
    for t in range(len(sums)):
        sums[t] = ONE / sums[t]


@inner
def _look_up(log_sums, begin, shifts):
    """The logs of the denominators of a block of queries; zeros after the last."""
    for t in range(ROWS):
        shifts[t, 0] = log_sums[begin + t] if begin + t < len(log_sums) else ZERO


@inner
def _to_score_gradients(p, d_p, seen, n, shifts, means):
    """For a block of queries: scores p become weights, and d_p, their gradients, those of scores.

    `means` are those that the gradients have under the weights.
    """
    for i in range(0, ROWS, TOGETHER):
        shift, summed = along(shifts, i, 0), everywhere(ZERO)
        for s in range(0, n, VECTOR):
            x = _weights(p, seen, i, s, shift)
            store(p, i, s, x)
            summed += x * load(d_p, i, s)
        totals(summed, means[:, 0], i)
        mean = along(means, i, 0)
        for s in range(0, n, VECTOR):
            store(d_p, i, s, load(p, i, s) * (load(d_p, i, s) - mean))


@inner
def _to_sink(sink, shifts, means):
    """What a block of queries takes from the gradient of a sink."""
    total = ZERO
    for t in range(ROWS):
        total += np.float32(math.exp(sink - shifts[t, 0])) * means[t, 0]
    return total

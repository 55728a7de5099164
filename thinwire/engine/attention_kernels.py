"""CPU kernels of causal attention on feature-major activations, one head of one sequence at a time.

Queries and keys are sparse, so scores are added up channel by channel, and only for channels that a query has. A head
in which all queries are zero, or all keys the same, attends to everything alike: its outputs are running means.
"""

import math

import numpy as np
from numba import prange

from thinwire.engine.alike_kernels import alike_backward, attend_alike, is_alike
from thinwire.engine.exponential_kernels import exponentials, largest
from thinwire.engine.jit import inner, summing
from thinwire.engine.product_kernels import clear, has_nonzero

STRIDE = 32
"""Positions of whole loops, without a rest that would be done number by number."""
BLOCK = 4
"""Queries that are taken together; `_dots`, `_add_outer` and `_add_row` are written for so many."""


@summing
def attend(q, k, v, sink, queries, scale, out, log_sums):
    """out [head, d_head, batch, n_queries] and log_sums [head, batch, n_queries], the logs of the softmax denominators.

    q has the shape of out, k and v are [head, d_head, batch, pos]. The query t of sequence b stands at `queries[b, t]`.
    `sink` [head] is added to each denominator as exp(sink), or is empty. Without any log_sums, heads that move nothing
    are left out.
    """
    n_heads, d_head, batch, length = k.shape
    for job in prange(n_heads * batch):
        h, b = job // batch, job % batch
        if log_sums.size == 0 and _is_zero(v, h, b):
            _clear_head(out, h, b)
        elif is_alike(k, h, b) or _is_zero(q, h, b):
            attend_alike(q, k, v, sink, queries, scale, out, log_sums, h, b)
        else:
            p, bits = np.empty((BLOCK, length), np.float32), np.empty(length, np.int32)
            p_bits = p.view(np.int32)
            asking, means = np.empty((BLOCK, d_head), np.float32), np.empty((BLOCK, d_head), np.float32)
            channels, used = np.empty((BLOCK, d_head), np.int64), np.empty(BLOCK, np.int64)
            sizes, powers = np.empty(BLOCK, np.float32), bits.view(np.float32)
            for begin in range(0, q.shape[3], BLOCK):
                furthest = _furthest(queries, b, begin, length)
                _columns(q, h, b, begin, scale, asking, channels, used)
                _scores_apart(asking, channels, used, k, h, b, furthest, p)
                _weigh(furthest, sink, queries, h, b, begin, p, p_bits, bits, powers, sizes, log_sums)
                _dots(p, v, h, b, furthest, means)
                _write(means, sizes, out, h, b, begin)


@summing
def attend_backward(q, k, v, sink, queries, scale, log_sums, grad, d_q, d_k, d_v, d_sink):
    """Gradients of `attend`, from `grad` of the shape of q. d_sink is [head, batch], and given as zeros."""
    n_heads, d_head, batch, length = k.shape
    for job in prange(n_heads * batch):
        h, b = job // batch, job % batch
        for made in (d_q, d_k, d_v):
            _clear_head(made, h, b)
        if _is_zero(grad, h, b):
            continue
        if is_alike(k, h, b):
            alike_backward(q, k, v, sink, queries, scale, log_sums, grad, d_q, d_k, d_v, d_sink, h, b)
            continue
        p, d_s = np.zeros((BLOCK, length), np.float32), np.zeros((BLOCK, length), np.float32)
        d_p, bits = np.empty((BLOCK, length), np.float32), np.empty(length, np.int32)
        asking, d_means = np.empty((BLOCK, d_head), np.float32), np.empty((BLOCK, d_head), np.float32)
        channels, used = np.empty((BLOCK, d_head), np.int64), np.empty(BLOCK, np.int64)
        d_asking, sizes = np.empty((BLOCK, d_head), np.float32), np.full(BLOCK, scale, np.float32)
        powers = bits.view(np.float32)
        for begin in range(0, q.shape[3], BLOCK):
            furthest = _furthest(queries, b, begin, length)
            _columns(grad, h, b, begin, np.float32(1), d_means, channels, used)  # most channels: which, does not matter
            _columns(q, h, b, begin, scale, asking, channels, used)
            _scores_together(d_means, v, h, b, furthest, d_p)
            _scores_apart(asking, channels, used, k, h, b, furthest, p)
            _to_score_gradients(sink, queries, log_sums, h, b, begin, furthest, p, d_p, bits, powers, d_s, d_sink)
            _dots(d_s, k, h, b, furthest, d_asking)
            _write(d_asking, sizes, d_q, h, b, begin)
            _add_outer(d_means, p, d_v, h, b, furthest)
            _add_outer(asking, d_s, d_k, h, b, furthest)


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


@inner
def _furthest(queries, b, begin, length):
    """How many positions a block of queries sees, all together; rounded up, where there are so many, to whole loops."""
    last = queries[b, begin]
    for t in range(begin, min(begin + BLOCK, queries.shape[1])):
        last = max(last, queries[b, t])
    return min(length, (last + STRIDE) // STRIDE * STRIDE)


@inner
def _columns(x, h, b, begin, scale, out, channels, used):
    """out[i] = scale · x[h, :, b, begin + i] for a block; `channels` says which are not zero, `used` how many.

    A block at a time, since its numbers share lines of the cache. Queries after the last are zero.
    """
    for i in range(BLOCK):
        column, names, n = out[i], channels[i], 0
        if begin + i < x.shape[3]:
            for d in range(len(column)):
                number = x[h, d, b, begin + i] * scale
                column[d], names[n] = number, d
                n += np.int64(number != 0)
        else:
            clear(column)
        used[i] = n


@inner
def _weigh(furthest, sink, queries, h, b, begin, p, p_bits, bits, powers, sizes, log_sums):
    """Replace the scores p of a block of queries by exp(p - their maximum), zeros up to the furthest.

    sizes = 1 / denominator.
    """
    for i in range(min(BLOCK, queries.shape[1] - begin)):
        n = queries[b, begin + i] + 1
        most = largest(p_bits[i], n, bits, powers)
        most = max(most, sink[h]) if sink.size else most
        total = exponentials(p[i], bits, powers, n, furthest, most)
        total += np.float32(math.exp(sink[h] - most)) if sink.size else np.float32(0)
        sizes[i] = np.float32(1) / total
        if log_sums.size:
            log_sums[h, b, begin + i] = most + np.float32(math.log(total))


@inner
def _write(block, sizes, out, h, b, begin):
    """out[h, :, b, begin:] = block [query, d_head], each query times its size."""
    n = min(BLOCK, out.shape[3] - begin)
    for d in range(out.shape[1]):
        row = out[h, d, b, begin : begin + n]
        for i in range(n):
            row[i] = block[i, d] * sizes[i]


@inner
def _scores_apart(weights, channels, used, k, h, b, n, out):
    """out[i, s] = Σ_d weights[i, d] · k[h, d, b, s] for a block of queries, each over the channels that it has."""
    for i in range(BLOCK):
        _scores(weights[i], channels[i], used[i], k, h, b, n, out[i])


@inner
def _scores(query, channels, used, k, h, b, n, out):
    """out[s] = Σ_d query[d] · k[h, d, b, s] for the first n positions, over the channels used, four at a time."""
    done = used % 4
    for s in range(n):
        out[s] = 0
    for i in range(done):
        a, row = query[channels[i]], k[h, channels[i], b]
        for s in range(n):
            out[s] += a * row[s]
    for i in range(done, used, 4):
        c0, c1, c2, c3 = channels[i], channels[i + 1], channels[i + 2], channels[i + 3]
        a0, a1, a2, a3 = query[c0], query[c1], query[c2], query[c3]
        row0, row1, row2, row3 = k[h, c0, b], k[h, c1, b], k[h, c2, b], k[h, c3, b]
        for s in range(n):
            out[s] += (a0 * row0[s] + a1 * row1[s]) + (a2 * row2[s] + a3 * row3[s])


@inner
def _scores_together(weights, k, h, b, n, out):
    """out[i, s] = Σ_d weights[i, d] · k[h, d, b, s] for a block of queries, which have most channels.

    Four channels at a time for two queries, so that what is loaded is used twice.
    """
    d_head = weights.shape[1]
    odd = d_head % 4
    for i in range(0, BLOCK, 2):
        row, other = out[i, :n], out[i + 1, :n]
        clear(row)
        clear(other)
        for d in range(odd):
            a, c, read = weights[i, d], weights[i + 1, d], k[h, d, b]
            for s in range(n):
                row[s] += a * read[s]
                other[s] += c * read[s]
        for d in range(odd, d_head, 4):
            a0, a1, a2, a3 = weights[i, d], weights[i, d + 1], weights[i, d + 2], weights[i, d + 3]
            c0, c1, c2, c3 = weights[i + 1, d], weights[i + 1, d + 1], weights[i + 1, d + 2], weights[i + 1, d + 3]
            if a0 != 0 or a1 != 0 or a2 != 0 or a3 != 0 or c0 != 0 or c1 != 0 or c2 != 0 or c3 != 0:
                row0, row1, row2, row3 = k[h, d, b], k[h, d + 1, b], k[h, d + 2, b], k[h, d + 3, b]
                for s in range(n):
                    row[s] += (a0 * row0[s] + a1 * row1[s]) + (a2 * row2[s] + a3 * row3[s])
                    other[s] += (c0 * row0[s] + c1 * row1[s]) + (c2 * row2[s] + c3 * row3[s])


@inner
def _dots(p, x, h, b, n, out):
    """out[i, d] = Σ_s p[i, s] · x[h, d, b, s] over the first n positions, for a block of queries and every channel.

    Two channels at a time, so that what is loaded is used twice and four times. x is to be finite, since positions that
    a query does not see have weight zero.
    """
    d_head = x.shape[1]
    p0, p1, p2, p3 = p[0], p[1], p[2], p[3]
    for d in range(0, d_head - 1, 2):
        row, other = x[h, d, b], x[h, d + 1, b]
        y0 = y1 = y2 = y3 = z0 = z1 = z2 = z3 = np.float32(0)
        for s in range(n):
            a, c = row[s], other[s]
            y0 += p0[s] * a
            y1 += p1[s] * a
            y2 += p2[s] * a
            y3 += p3[s] * a
            z0 += p0[s] * c
            z1 += p1[s] * c
            z2 += p2[s] * c
            z3 += p3[s] * c
        out[0, d], out[1, d], out[2, d], out[3, d] = y0, y1, y2, y3
        out[0, d + 1], out[1, d + 1], out[2, d + 1], out[3, d + 1] = z0, z1, z2, z3
    if d_head % 2 == 1:
        for i in range(BLOCK):
            out[i, d_head - 1] = _dot(p[i], x[h, d_head - 1, b], n)


@inner
def _add_outer(weights, p, out, h, b, n):
    """out[h, d, b, s] += Σ_i weights[i, d] · p[i, s] over a block of queries, for the first n positions."""
    p0, p1, p2, p3 = p[0], p[1], p[2], p[3]
    for d in range(weights.shape[1]):
        a0, a1, a2, a3 = weights[0, d], weights[1, d], weights[2, d], weights[3, d]
        if a0 != 0 or a1 != 0 or a2 != 0 or a3 != 0:
            row = out[h, d, b]
            for s in range(n):
                row[s] += (a0 * p0[s] + a1 * p1[s]) + (a2 * p2[s] + a3 * p3[s])


@inner
def _to_score_gradients(sink, queries, log_sums, h, b, begin, furthest, p, d_p, bits, powers, d_s, d_sink):
    """For a block of queries: scores p become weights, and d_s the gradient of scores from d_p, that of weights."""
    for i in range(min(BLOCK, queries.shape[1] - begin)):
        t, row, d_row, made = begin + i, p[i], d_p[i], d_s[i]
        exponentials(row, bits, powers, queries[b, t] + 1, furthest, log_sums[h, b, t])
        mean = _dot(row, d_row, furthest)
        if sink.size:
            d_sink[h, b] -= np.float32(math.exp(sink[h] - log_sums[h, b, t])) * mean
        for s in range(furthest):
            made[s] = row[s] * (d_row[s] - mean)


@inner
def _dot(p, row, n):
    total = np.float32(0)
    for s in range(n):
        total += p[s] * row[s]
    return total

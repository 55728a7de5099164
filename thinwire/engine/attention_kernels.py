"""CPU kernels of causal attention on feature-major activations, one head of one sequence at a time.

Queries and keys are sparse, so scores are added up channel by channel, and only for channels that a query has. A query
with none attends to everything alike: its output is a running mean. Exponentials are computed here, since those of the
library are one call a number: 2^x by a polynomial and the exponent's bits, exact to float32 rounding.
"""

import math

import numpy as np
from numba import prange

from thinwire.engine.alike_kernels import alike_backward, alike_score, is_alike
from thinwire.engine.jit import inner, summing
from thinwire.engine.product_kernels import clear

LANES = 16
"""Numbers whose maxima are taken side by side; rows of scores are padded to a multiple."""
BLOCK = 4
"""Queries whose gradients are added up together; `_add_outer` is written for so many."""
LOWEST = np.float32(-3.0e38)
LOG2_E = np.float32(1 / math.log(2))
TAYLOR = tuple(np.float32(math.log(2) ** i / math.factorial(i)) for i in range(7))
"""Coefficients of 2^x for |x| ≤ 1/2."""


@summing
def attend(q, k, v, sink, queries, scale, out, log_sums):
    """out [head, d_head, batch, n_queries] and log_sums [head, batch, n_queries], the logs of the softmax denominators.

    q has the shape of out, k and v are [head, d_head, batch, pos]. The query t of sequence b stands at `queries[b, t]`.
    `sink` [head] is added to each denominator as exp(sink), or is empty. Without any log_sums, heads that move nothing
    are left out.
    """
    n_heads, d_head, batch, length = k.shape
    logs_wanted = log_sums.size > 0
    for job in prange(n_heads * batch):
        h, b = job // batch, job % batch
        if not logs_wanted and _is_zero(v, h, b):
            for d in range(d_head):
                clear(out[h, d, b])
            continue
        alike = is_alike(k, h, b)
        p, bits = np.empty(length + LANES, np.float32), np.empty(length + LANES, np.int32)
        query, channels, lanes = np.empty(d_head, np.float32), np.empty(d_head, np.int64), np.empty(LANES, np.float32)
        powers = bits.view(np.float32)
        running, summed = np.zeros(d_head, np.float32), 0
        for t in range(q.shape[3]):
            n = queries[b, t] + 1
            used = _column(q, h, b, t, scale, query, channels)
            if used > 0 and not alike:
                _scores(query, channels, used, k, h, b, n, p)
                most = _largest(p, n, lanes)
                most = max(most, sink[h]) if sink.size else most
                total = _exponentials(p, bits, powers, n, most)
                total += np.float32(math.exp(sink[h] - most)) if sink.size else np.float32(0)
                _dots(p, v, h, b, n, np.float32(1) / total, out, t)
            else:
                if n < summed:
                    clear(running)
                    summed = 0
                score = alike_score(query, k, h, b)
                most = max(score, sink[h]) if sink.size else score
                each = np.float32(math.exp(score - most))
                total = np.float32(n) * each + (np.float32(math.exp(sink[h] - most)) if sink.size else np.float32(0))
                for d in range(d_head):
                    running[d] += _sum(v[h, d, b], summed, n)
                    out[h, d, b, t] = running[d] * each / total
                summed = n
            if logs_wanted:
                log_sums[h, b, t] = most + np.float32(math.log(total))


@summing
def attend_backward(q, k, v, sink, queries, scale, log_sums, grad, d_q, d_k, d_v, d_sink):
    """Gradients of `attend`, from `grad` of the shape of q; d_k and d_v are given as zeros. d_sink is [head, batch]."""
    n_heads, d_head, batch, length = k.shape
    for job in prange(n_heads * batch):
        h, b = job // batch, job % batch
        if is_alike(k, h, b):
            alike_backward(q, k, v, sink, queries, scale, log_sums, grad, d_q, d_k, d_v, d_sink, h, b)
            continue
        p, d_p = np.zeros((BLOCK, length + LANES), np.float32), np.empty(length, np.float32)
        d_s, bits = np.zeros((BLOCK, length + LANES), np.float32), np.empty(length, np.int32)
        asked, given = np.empty((BLOCK, d_head), np.float32), np.empty((BLOCK, d_head), np.float32)
        channels, powers = np.empty(d_head, np.int64), bits.view(np.float32)
        for begin in range(0, q.shape[3], BLOCK):
            end = min(begin + BLOCK, q.shape[3])
            furthest = 0
            for t in range(begin, end):
                furthest = max(furthest, queries[b, t] + 1)
            for t in range(begin, begin + BLOCK):
                i, n = t - begin, 0
                if t < end:
                    n = queries[b, t] + 1
                    used = _column(grad, h, b, t, np.float32(1), given[i], channels)
                    _scores(given[i], channels, used, v, h, b, n, d_p)
                    used = _column(q, h, b, t, scale, asked[i], channels)
                    _scores(asked[i], channels, used, k, h, b, n, p[i])
                    _exponentials(p[i], bits, powers, n, log_sums[h, b, t])
                    mean = _dot(p[i], d_p, n)
                    if sink.size:
                        d_sink[h, b] -= np.float32(math.exp(sink[h] - log_sums[h, b, t])) * mean
                    _to_score_gradient(p[i], d_p, mean, n, d_s[i])
                    _dots(d_s[i], k, h, b, n, scale, d_q, t)
                else:
                    asked[i], given[i] = 0, 0
                p[i, n:furthest], d_s[i, n:furthest] = 0, 0
            _add_outer(given, p, d_v, h, b, furthest)
            _add_outer(asked, d_s, d_k, h, b, furthest)


@inner
def _is_zero(x, h, b):
    """Whether all channels of a head are zero at all positions of a sequence."""
    nonzero = 0
    for d in range(x.shape[1]):
        row = x[h, d, b]
        for s in range(len(row)):
            nonzero += np.int32(row[s] != 0)
    return nonzero == 0


@inner
def _column(x, h, b, t, scale, out, channels):
    """out = scale · x[h, :, b, t], and the channels that are not zero, first in `channels`; returns how many."""
    used = 0
    for d in range(len(out)):
        out[d] = x[h, d, b, t] * scale
        channels[used] = d
        used += np.int64(out[d] != 0)
    return used


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
def _dots(p, x, h, b, n, scale, out, t):
    """out[h, d, b, t] = scale · Σ_s p[s] · x[h, d, b, s] over the first n, for every channel d, four at a time."""
    d_head = x.shape[1]
    done = d_head % 4
    for d in range(done):
        out[h, d, b, t] = scale * _dot(p, x[h, d, b], n)
    for d in range(done, d_head, 4):
        row0, row1, row2, row3 = x[h, d, b], x[h, d + 1, b], x[h, d + 2, b], x[h, d + 3, b]
        y0 = y1 = y2 = y3 = np.float32(0)
        for s in range(n):
            a = p[s]
            y0 += a * row0[s]
            y1 += a * row1[s]
            y2 += a * row2[s]
            y3 += a * row3[s]
        out[h, d, b, t], out[h, d + 1, b, t] = scale * y0, scale * y1
        out[h, d + 2, b, t], out[h, d + 3, b, t] = scale * y2, scale * y3


@inner
def _add_outer(weights, p, out, h, b, n):
    """out[h, d, b, s] += Σ_i weights[i, d] · p[i, s] over a block of queries, for the first n positions."""
    row0, row1, row2, row3 = p[0], p[1], p[2], p[3]
    for d in range(weights.shape[1]):
        a0, a1, a2, a3 = weights[0, d], weights[1, d], weights[2, d], weights[3, d]
        if a0 != 0 or a1 != 0 or a2 != 0 or a3 != 0:
            row = out[h, d, b]
            for s in range(n):
                row[s] += (a0 * row0[s] + a1 * row1[s]) + (a2 * row2[s] + a3 * row3[s])


@inner
def _largest(p, n, lanes):
    padded = (n + LANES - 1) // LANES * LANES
    for s in range(n, padded):
        p[s] = LOWEST
    for lane in range(LANES):
        lanes[lane] = p[lane]
    for begin in range(LANES, padded, LANES):
        for lane in range(LANES):
            value = p[begin + lane]
            lanes[lane] = lanes[lane] if lanes[lane] > value else value
    most = lanes[0]
    for lane in range(1, LANES):
        most = most if most > lanes[lane] else lanes[lane]
    return most


@inner
def _exponentials(p, bits, powers, n, shift):
    """Replace the first n of p by exp(p - shift) and return their sum; no exponent is to be much above zero.

    `bits` and `powers` are scratch, the same memory as int32 and float32.
    """
    for s in range(n):
        bits[s], p[s] = split_power((p[s] - shift) * LOG2_E)
    total = np.float32(0)
    for s in range(n):
        p[s] *= powers[s]
        total += p[s]
    return total


@inner
def split_power(x):
    """2^x, for x up to 127, as the bits of a power of two and a factor; small ones end at 2^-126."""
    x = x if x > np.float32(-126) else np.float32(-126)
    whole = np.floor(x + np.float32(0.5))
    bits = (np.int32(whole) + np.int32(127)) << np.int32(23)
    x -= whole
    y = TAYLOR[5] + x * TAYLOR[6]
    y = TAYLOR[4] + x * y
    y = TAYLOR[3] + x * y
    y = TAYLOR[2] + x * y
    y = TAYLOR[1] + x * y
    return bits, TAYLOR[0] + x * y


@inner
def _to_score_gradient(p, d_p, mean, n, out):
    for s in range(n):
        out[s] = p[s] * (d_p[s] - mean)


@inner
def _dot(p, row, n):
    total = np.float32(0)
    for s in range(n):
        total += p[s] * row[s]
    return total


@inner
def _sum(row, begin, end):
    total = np.float32(0)
    for s in range(begin, end):
        total += row[s]
    return total

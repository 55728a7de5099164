"""Parts of the CPU kernels of attention for heads in which all keys of a sequence are the same.

Masks hold most channels of most heads at their means. A query then weighs all positions alike, whatever it is, so that
a head costs what a running mean does, forward and back.
"""

import math

import numpy as np
from numba import prange

from thinwire.engine.jit import inner, kernel, making


@making
def attend_alike(q, k, v, sink, queries, scale, out, log_sums, h, b):
    """`attend` for a head of a sequence in which all keys are the same, or all queries zero: running means."""
    d_head = k.shape[1]
    running, summed = np.zeros(d_head, np.float32), 0
    for t in range(q.shape[3]):
        n, score = queries[b, t] + 1, np.float32(0)
        for d in range(d_head):
            score += scale * q[h, d, b, t] * k[h, d, b, 0]
        if n < summed:
            running[:] = 0
            summed = 0
        most = max(score, sink[h]) if sink.size else score
        each = np.float32(math.exp(score - most))
        total = np.float32(n) * each + (np.float32(math.exp(sink[h] - most)) if sink.size else np.float32(0))
        _run_on(v, h, b, summed, n, running, each / total, out, t)
        summed = n
        if log_sums.size:
            log_sums[h, b, t] = most + np.float32(math.log(total))


@inner
def _run_on(v, h, b, begin, end, running, size, out, t):
    """Add positions begin … end - 1 to running sums; out[h, :, b, t] = size · the sums."""
    for d in range(len(running)):
        row, total = v[h, d, b], np.float32(0)
        for s in range(begin, end):
            total += row[s]
        running[d] += total
        out[h, d, b, t] = running[d] * size


@making
def alike_backward(q, k, v, sink, queries, scale, log_sums, grad, d_q, d_k, d_v, d_sink, h, b):
    """Gradients of a head of a sequence in which all keys are the same: a query weighs all of them alike.

    What a key gets is then a sum over the queries behind it, gathered from the last one on.
    """
    d_head, length, n_queries = k.shape[1], k.shape[3], q.shape[3]
    before = np.zeros((d_head, length + 1), np.float32)
    for d in range(d_head):
        for s in range(length):
            before[d, s + 1] = before[d, s] + v[h, d, b, s]
    weights, means = np.empty(n_queries, np.float32), np.empty(n_queries, np.float32)
    for t in range(n_queries):
        n, score, total = queries[b, t] + 1, np.float32(0), np.float32(0)
        for d in range(d_head):
            score += scale * q[h, d, b, t] * k[h, d, b, 0]
            total += grad[h, d, b, t] * before[d, n]
        weights[t] = np.float32(math.exp(score - log_sums[h, b, t]))
        means[t] = weights[t] * total
        left = np.float32(0)
        if sink.size:
            d_sink[h, b] -= np.float32(math.exp(sink[h] - log_sums[h, b, t])) * means[t]
            left = means[t] * (np.float32(1) - np.float32(n) * weights[t])
        for d in range(d_head):
            d_q[h, d, b, t] = scale * k[h, d, b, 0] * left
    outer, given, pulled = (
        np.zeros((d_head, d_head), np.float32),
        np.zeros(d_head, np.float32),
        np.zeros(d_head, np.float32),
    )
    asked, got = np.empty(d_head, np.float32), np.empty(d_head, np.float32)
    order, last = np.argsort(queries[b]), n_queries - 1
    for s in range(length - 1, -1, -1):
        while last >= 0 and queries[b, order[last]] >= s:
            t = order[last]
            for e in range(d_head):
                asked[e] = q[h, e, b, t]
            for d in range(d_head):
                _add(weights[t] * grad[h, d, b, t], asked, outer[d])
                given[d] += weights[t] * grad[h, d, b, t]
            _add(weights[t] * means[t], asked, pulled)
            last -= 1
        for e in range(d_head):
            got[e] = -pulled[e]
        for d in range(d_head):
            _add(v[h, d, b, s], outer[d], got)
        for e in range(d_head):
            d_v[h, e, b, s] = given[e]
            d_k[h, e, b, s] = scale * got[e]


@inner
def _add(a, row, out):
    """out += a · row."""
    if a != 0:
        for i in range(len(out)):
            out[i] += a * row[i]


@kernel
def n_alike(k):
    """In how many heads of sequences all keys are the same."""
    n_heads, _, batch, _ = k.shape
    found = 0
    for job in prange(n_heads * batch):
        found += np.int64(is_alike(k, job // batch, job % batch))
    return found


@inner
def is_alike(x, h, b):
    """Whether every channel of a head is the same at all positions of a sequence."""
    for d in range(x.shape[1]):
        row = x[h, d, b]
        others = 0
        for s in range(len(row)):
            others += np.int32(row[s] != row[0])
        if others > 0:
            return False
    return True

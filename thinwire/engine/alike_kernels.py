"""Parts of the CPU kernels of attention for heads in which all keys of a sequence are the same.

Masks hold most channels of most heads at their means. A query then weighs all positions alike, whatever it is, so that
a head costs what a running mean does, forward and back.
"""

import math

import numpy as np

from thinwire.engine.jit import inner, making
from thinwire.engine.product_kernels import clear, has_nonzero, is_constant


@making
def attend_alike(q, k, v, sink, queries, scale, out, log_sums, h, b):
    """`attend` for a head of a sequence in which all keys are the same, or all queries zero: running means."""
    d_head = k.shape[1]
    running, summed = np.zeros(d_head, np.float32), 0
    for t in range(q.shape[3]):
        n, score = queries[b, t] + 1, _score(q, k, scale, h, b, t)
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
def _score(q, k, scale, h, b, t):
    """The score of a query with every key."""
    score = np.float32(0)
    for d in range(q.shape[1]):
        score += scale * q[h, d, b, t] * k[h, d, b, 0]
    return score


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
    """Gradients of a head of a sequence in which all keys are the same, into zeros; see `attend_backward`."""
    d_head, n_queries = q.shape[1], q.shape[3]
    weights, means = np.empty(n_queries, np.float32), np.zeros(n_queries, np.float32)
    weighted, sums = np.empty((d_head, n_queries), np.float32), np.empty(k.shape[3], np.float32)
    moving = np.empty(d_head, np.bool_)
    _weigh_alike(q, k, sink, queries, scale, log_sums, h, b, weights)
    _to_values(v, sink, queries, weights, grad, h, b, d_v, weighted, means, sums, moving)
    if sink.size:
        _to_sink_and_queries(k, sink, scale, log_sums, h, b, means, d_q, d_sink)
    if moving.any():
        found, ones = np.empty(len(sums), np.float32), np.ones(n_queries, np.float32)
        _to_keys(q, v, queries, scale, h, b, weighted, weights * means, moving, d_k, sums, found, ones)


@inner
def _weigh_alike(q, k, sink, queries, scale, log_sums, h, b, weights):
    """What each query gives every position that it sees."""
    for t in range(len(weights)):
        if sink.size:
            weights[t] = np.float32(math.exp(_score(q, k, scale, h, b, t) - log_sums[h, b, t]))
        else:
            weights[t] = np.float32(1) / np.float32(queries[b, t] + 1)


@inner
def _to_values(v, sink, queries, weights, grad, h, b, d_v, weighted, means, sums, moving):
    """d_v; weighted [d_head, n_queries] = grad · weights; means = Σ of p · its gradient, over channels that are moving.

    A channel of v that is the same everywhere adds the same to the gradient of all weights of a query, and so nothing
    to that of its scores, unless a sink takes a share; one without a gradient adds nothing at all.
    """
    for d in range(len(moving)):
        given, made, row = grad[h, d, b], weighted[d], v[h, d, b]
        moving[d] = False
        if not has_nonzero(given):
            continue
        for t in range(len(made)):
            made[t] = given[t] * weights[t]
        _sum_behind(given, weights, queries[b], d_v[h, d, b])
        moving[d] = sink.size > 0 or not is_constant(row)
        if moving[d]:
            total = np.float32(0)
            for s in range(len(row)):
                total += row[s]
                sums[s] = total
            for t in range(len(made)):
                means[t] += made[t] * sums[queries[b, t]]


@inner
def _to_sink_and_queries(k, sink, scale, log_sums, h, b, means, d_q, d_sink):
    """d_sink and d_q: a query gets something only because the sink takes a share."""
    for t in range(len(means)):
        share = np.float32(math.exp(sink[h] - log_sums[h, b, t])) * means[t]
        d_sink[h, b] -= share
        for d in range(k.shape[1]):
            d_q[h, d, b, t] = scale * k[h, d, b, 0] * share


@inner
def _to_keys(q, v, queries, scale, h, b, weighted, weighted_means, moving, d_k, sums, found, ones):
    """d_k[e, s] = scale · what s gets through q[e]; at once for neighbours that each ask all positions the same."""
    is_common = False
    for e in range(q.shape[1]):
        row, made = q[h, e, b], d_k[h, e, b]
        if not has_nonzero(row):
            continue
        varies = not is_constant(row)
        size = scale if varies else scale * row[0]
        if varies or not is_common:
            _asked(row if varies else ones, v, queries, h, b, weighted, weighted_means, moving, sums, found)
        is_common = not varies
        for s in range(len(made)):
            made[s] += size * found[s]


@inner
def _asked(row, v, queries, h, b, weighted, weighted_means, moving, sums, out):
    """out[s] = Σ over the queries t that see s of row[t] · (Σ_d weighted[d, t] · v[d, s] - its mean)."""
    _sum_behind(weighted_means, row, queries[b], out)
    for s in range(len(out)):
        out[s] = -out[s]
    for d in range(len(moving)):
        if moving[d]:
            _sum_behind(weighted[d], row, queries[b], sums)
            read = v[h, d, b]
            for s in range(len(out)):
                out[s] += read[s] * sums[s]


@inner
def _sum_behind(x, y, places, out):
    """out[s] = Σ of x · y over those whose places are s or later."""
    clear(out)
    for t in range(len(x)):
        out[places[t]] += x[t] * y[t]
    total = np.float32(0)
    for s in range(len(out) - 1, -1, -1):
        total += out[s]
        out[s] = total


@inner
def is_alike(x, h, b):
    """Whether every channel of a head is the same at all positions of a sequence."""
    for d in range(x.shape[1]):  # noqa: SIM110, numba knows no generators
        if not is_constant(x[h, d, b]):
            return False
    return True

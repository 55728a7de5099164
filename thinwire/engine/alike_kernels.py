"""Parts of the CPU kernels of attention for heads in which all keys of a sequence are the same.

Masks hold most channels of most heads at their means. A query then weighs all positions alike, whatever it is, so that
a head costs what a running mean does, forward and back.
"""

import math

import numpy as np

from thinwire.engine.exponential_kernels import LOG2_E
from thinwire.engine.jit import exact, inner, making
from thinwire.engine.product_kernels import clear, has_nonzero, is_constant

LN_2 = np.float32(math.log(2))


@making
def attend_alike(q, k, v, sink, queries, scale, out, log_sums, h, b):
    """`attend` for a head of a sequence in which all keys are the same, or all queries zero: running means."""
    sizes, sums = np.empty(q.shape[3], np.float32), np.empty(v.shape[3], np.float32)
    _score(q, k, scale * LOG2_E, h, b, sizes)
    _share_out(sink, queries, h, b, sizes, log_sums)
    _add_up_to(v, queries[b], h, b, sizes, sums, out)


@inner
def _score(q, k, scale, h, b, scores):
    """The score of each query with every key, to the base of the scale."""
    clear(scores)
    for d in range(q.shape[1]):
        row, key = q[h, d, b], scale * k[h, d, b, 0]
        for t in range(len(scores)):
            scores[t] += key * row[t]


@inner
def _power(x):
    return np.float32(math.exp(x * LN_2))


@exact
def _share_out(sink, queries, h, b, sizes, log_sums):
    """From scores to what each query gives every position that it sees."""
    for t in range(len(sizes)):
        score, n = sizes[t], np.float32(queries[b, t] + 1)
        most, each, total = score, np.float32(1) + (score - score), n  # NaN stays
        if sink.size:
            most = max(score, sink[h] * LOG2_E)
            each = _power(score - most)
            total = n * each + _power(sink[h] * LOG2_E - most)
        sizes[t] = each / total
        if log_sums.size:
            log_sums[h, b, t] = most + np.float32(math.log(total)) * LOG2_E


@inner
def _add_up_to(v, queries, h, b, sizes, sums, out):
    """out[h, :, b, t] = the sum of what query t sees, times its size."""
    for d in range(v.shape[1]):
        row, made = v[h, d, b], out[h, d, b]
        if is_constant(row):
            for t in range(len(made)):
                made[t] = row[0] * (np.float32(queries[t] + 1) * sizes[t])
        else:
            total = np.float32(0)
            for s in range(len(row)):
                total += row[s]
                sums[s] = total
            for t in range(len(made)):
                made[t] = sums[queries[t]] * sizes[t]


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
    if sink.size:
        _score(q, k, scale * LOG2_E, h, b, weights)
    for t in range(len(weights)):
        if sink.size:
            weights[t] = _power(weights[t] - log_sums[h, b, t])
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
        share = _power(sink[h] * LOG2_E - log_sums[h, b, t]) * means[t]
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

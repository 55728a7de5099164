"""Heads that attend uniformly, because all keys of a sequence are equal. Parts of the attention kernels.

Masks ablate most channels of most heads to their means. A query then weighs all positions it sees alike, whatever the
query is, so that a head costs what a running mean does, forward and backward.
"""

import math

import numpy as np

from thinwire.engine.attention.records import UniformScratch
from thinwire.engine.jit import allocating, device_function, no_reassociation
from thinwire.engine.simd.exp2 import LOG2_E
from thinwire.engine.simd.rows import clear, has_nonzero, is_constant

LN_2 = np.float32(math.log(2))


@device_function
def has_equal_keys(k, h, b):
    """Whether every channel of head h is the same at all positions of sequence b."""
    for d in range(k.shape[1]):  # noqa: SIM110, numba knows no generators
        if not is_constant(k[h, d, b]):
            return False
    return True


@allocating
def attend_uniform(inputs, result, h, b):
    """`attend` for a head of a sequence whose keys are equal, or whose queries are zero: running means."""
    v = inputs.v
    weights, sums = np.empty(inputs.q.shape[3], np.float32), np.empty(v.shape[3], np.float32)
    _score(inputs, h, b, weights)
    _scores_to_weights(inputs, h, b, weights, result.log_sums)
    for d in range(v.shape[1]):
        row, out = v[h, d, b], result.out[h, d, b]
        _weighted_sums(row, inputs.queries[b], weights, sums, out)


@device_function
def _score(inputs, h, b, scores):
    """The score of each query with every key, to base 2."""
    clear(scores)
    for d in range(inputs.q.shape[1]):
        row, key = inputs.q[h, d, b], inputs.scale * LOG2_E * inputs.k[h, d, b, 0]
        for t in range(len(scores)):
            scores[t] += key * row[t]


@device_function
def _exp2(x):
    return np.float32(math.exp(x * LN_2))


@no_reassociation
def _scores_to_weights(inputs, h, b, weights, log_sums):
    """From scores to the weight that each query gives every position it sees; writes log sums if there are any."""
    sink = inputs.sink
    for t in range(len(weights)):
        score, n = weights[t], np.float32(inputs.queries[b, t] + 1)
        most, each, total = score, np.float32(1) + (score - score), n  # NaN stays
        if sink.size:
            most = max(score, sink[h] * LOG2_E)
            each = _exp2(score - most)
            total = n * each + _exp2(sink[h] * LOG2_E - most)
        weights[t] = each / total
        if log_sums.size:
            log_sums[h, b, t] = most + np.float32(math.log(total)) * LOG2_E


@device_function
def _weighted_sums(row, queries, weights, sums, out):
    """out[t] = weights[t] · Σ of the row up to position queries[t]; `sums` is scratch."""
    if is_constant(row):
        for t in range(len(out)):
            out[t] = row[0] * (np.float32(queries[t] + 1) * weights[t])
    else:
        total = np.float32(0)
        for s in range(len(row)):
            total += row[s]
            sums[s] = total
        for t in range(len(out)):
            out[t] = sums[queries[t]] * weights[t]


@allocating
def uniform_backward(inputs, log_sums, grad, gradients, h, b):
    """Gradients of a head of a sequence whose keys are equal, into zeros; see `attend_backward`."""
    (_, d_head, _, n_queries), length = inputs.q.shape, inputs.k.shape[3]
    scratch = UniformScratch(
        np.empty(n_queries, np.float32),
        np.zeros(n_queries, np.float32),
        np.empty((d_head, n_queries), np.float32),
        np.empty(n_queries, np.float32),
        np.empty(length, np.float32),
        np.empty(d_head, np.bool_),
    )
    _weights_again(inputs, log_sums, h, b, scratch.weights)
    _to_values(inputs, grad, h, b, gradients.v, scratch)
    if inputs.sink.size:
        _to_sink_and_queries(inputs, log_sums, h, b, scratch.means, gradients)
    if scratch.moves.any():
        sums, ones = np.empty(length, np.float32), np.ones(n_queries, np.float32)
        _to_keys(inputs, h, b, scratch, sums, ones, gradients.k)


@device_function
def _weights_again(inputs, log_sums, h, b, weights):
    """The weight that each query gives every position it sees."""
    if inputs.sink.size:
        _score(inputs, h, b, weights)
    for t in range(len(weights)):
        if inputs.sink.size:
            weights[t] = _exp2(weights[t] - log_sums[h, b, t])
        else:
            weights[t] = np.float32(1) / np.float32(inputs.queries[b, t] + 1)


@device_function
def _to_values(inputs, grad, h, b, d_v, scratch):
    """d_v; weighted = grad · weights; means = Σ weight · its gradient, over the channels that move scores.

    A channel of v that is constant adds the same to the gradients of all weights of a query, and so nothing to those of
    its scores, unless a sink takes a share; a channel without a gradient adds nothing at all.
    """
    weights, means, sums, queries = scratch.weights, scratch.means, scratch.sums, inputs.queries[b]
    for d in range(len(scratch.moves)):
        d_row, weighted, row = grad[h, d, b], scratch.weighted[d], inputs.v[h, d, b]
        scratch.moves[d] = False
        if not has_nonzero(d_row):
            continue
        for t in range(len(weighted)):
            weighted[t] = d_row[t] * weights[t]
        _sum_of_later(d_row, weights, queries, d_v[h, d, b])
        scratch.moves[d] = inputs.sink.size > 0 or not is_constant(row)
        if scratch.moves[d]:
            total = np.float32(0)
            for s in range(len(row)):
                total += row[s]
                sums[s] = total
            for t in range(len(weighted)):
                means[t] += weighted[t] * sums[queries[t]]


@device_function
def _to_sink_and_queries(inputs, log_sums, h, b, means, gradients):
    """Gradients of the sink and the queries: a query has one only because the sink takes a share."""
    for t in range(len(means)):
        share = _exp2(inputs.sink[h] * LOG2_E - log_sums[h, b, t]) * means[t]
        gradients.sink[h, b] -= share
        for d in range(inputs.k.shape[1]):
            gradients.q[h, d, b, t] = inputs.scale * inputs.k[h, d, b, 0] * share


@device_function
def _to_keys(inputs, h, b, scratch, sums, ones, d_k):
    """d_k[e, s] = scale · what position s gets through q[e]; computed once for channels whose queries are constant."""
    is_common = False
    for e in range(inputs.q.shape[1]):
        row, d_row = inputs.q[h, e, b], d_k[h, e, b]
        if not has_nonzero(row):
            continue
        varies = not is_constant(row)
        size = inputs.scale if varies else inputs.scale * row[0]
        if varies or not is_common:
            _score_gradients(row if varies else ones, inputs, h, b, scratch, sums)
        is_common = not varies
        for s in range(len(d_row)):
            d_row[s] += size * sums[s]


@device_function
def _score_gradients(row, inputs, h, b, scratch, out):
    """out[s] = Σ over queries t that see s of row[t] · (Σ_d weighted[d, t] · v[d, s] - weight · mean of the query)."""
    queries, sums = inputs.queries[b], scratch.sums
    for t in range(len(scratch.products)):
        scratch.products[t] = scratch.weights[t] * scratch.means[t]
    _sum_of_later(scratch.products, row, queries, out)
    for s in range(len(out)):
        out[s] = -out[s]
    for d in range(len(scratch.moves)):
        if scratch.moves[d]:
            _sum_of_later(scratch.weighted[d], row, queries, sums)
            v = inputs.v[h, d, b]
            for s in range(len(out)):
                out[s] += v[s] * sums[s]


@device_function
def _sum_of_later(x, y, positions, out):
    """out[s] = Σ of x · y over those whose position is s or later."""
    clear(out)
    for t in range(len(x)):
        out[positions[t]] += x[t] * y[t]
    total = np.float32(0)
    for s in range(len(out) - 1, -1, -1):
        total += out[s]
        out[s] = total

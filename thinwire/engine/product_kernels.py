"""CPU kernels of the product of a sparse matrix and feature-major activations.

A matrix [out, in] has compressed rows: the nonzeros of row o are `starts[o]` up to `starts[o + 1]`, each a value and a
column. A row of the result is the sum of its nonzeros times the features that they read, four at a time, so that it is
written once for most rows of a very sparse matrix.
"""

import numpy as np
from numba import prange

from thinwire.engine.jit import inner, kernel, making, summing

ROWS = 16
"""Rows of the result that a thread takes at once."""
TOKENS = 2048
"""Tokens that a thread takes at once."""
STRETCH = 64
"""Numbers that are looked at together."""


@kernel
def multiply(values, columns, starts, bias, x, out):
    """out [rows, n] = matrix · x [in, n] + bias [rows]."""
    n_rows, n = out.shape
    row_blocks = (n_rows + ROWS - 1) // ROWS
    token_blocks = (n + TOKENS - 1) // TOKENS
    for job in prange(row_blocks * token_blocks):
        begin = (job // row_blocks) * TOKENS
        end = min(n, begin + TOKENS)
        first = (job % row_blocks) * ROWS
        _add_rows(values, columns, starts, bias, x, first, min(n_rows, first + ROWS), begin, end, out)


@inner
def _add_rows(values, columns, starts, bias, x, first, last, begin, end, out):
    for o in range(first, last):
        add_row(values, columns, starts[o], starts[o + 1], bias[o], x, out[o, begin:end], begin)


@making
def without_zero_rows(values, columns, starts, x):
    """The matrix without the nonzeros that meet a row of x [in, n] of zeros alone: values, columns and starts."""
    is_read = np.empty(len(x), np.bool_)
    for i in range(len(x)):
        is_read[i] = has_nonzero(x[i])
    kept_values, kept_columns = np.empty(len(values), np.float32), np.empty(len(values), np.int32)
    kept_starts, n = np.zeros(len(starts), np.int32), 0
    for o in range(len(starts) - 1):
        for i in range(starts[o], starts[o + 1]):
            kept_values[n], kept_columns[n] = values[i], columns[i]
            n += np.int64(is_read[columns[i]])
        kept_starts[o + 1] = n
    return kept_values[:n], kept_columns[:n], kept_starts


@inner
def clear(row):
    """Zero a row."""
    for t in range(len(row)):
        row[t] = 0


@inner
def has_nonzero(row):
    """Whether any number of a row is not zero; looks at a stretch at a time."""
    for begin in range(0, len(row), STRETCH):
        part, found = row[begin : min(len(row), begin + STRETCH)], 0
        for t in range(len(part)):
            found += np.int32(part[t] != 0)
        if found > 0:
            return True
    return False


@inner
def is_constant(row):
    """Whether all numbers of a row are the same; looks at a stretch at a time."""
    if len(row) == 0:
        return True
    first = row[0]
    for begin in range(0, len(row), STRETCH):
        part, others = row[begin : min(len(row), begin + STRETCH)], 0
        for t in range(len(part)):
            others += np.int32(part[t] != first)
        if others > 0:
            return False
    return True


@inner
def add_row(values, columns, begin, end, constant, x, y, offset):
    """y = constant + the nonzeros begin … end - 1 of a row times x[:, offset:offset + len(y)]."""
    n = y.size
    odd = (end - begin) % 4
    i = begin + odd
    if odd == 0:
        for t in range(n):
            y[t] = constant
    else:
        a, first = values[begin], x[columns[begin], offset : offset + n]
        if odd == 1:
            for t in range(n):
                y[t] = constant + a * first[t]
        else:
            b, second = values[begin + 1], x[columns[begin + 1], offset : offset + n]
            if odd == 2:
                for t in range(n):
                    y[t] = constant + (a * first[t] + b * second[t])
            else:
                c, third = values[begin + 2], x[columns[begin + 2], offset : offset + n]
                for t in range(n):
                    y[t] = constant + (a * first[t] + b * second[t] + c * third[t])
    while i < end:
        a, first = values[i], x[columns[i], offset : offset + n]
        b, second = values[i + 1], x[columns[i + 1], offset : offset + n]
        c, third = values[i + 2], x[columns[i + 2], offset : offset + n]
        d, fourth = values[i + 3], x[columns[i + 3], offset : offset + n]
        for t in range(n):
            y[t] += (a * first[t] + b * second[t]) + (c * third[t] + d * fourth[t])
        i += 4


@summing
def weight_gradient(columns, starts, x, grad, out):
    """out [nonzeros]: the gradient of each value from x [in, n] and the gradient [rows, n] of the product."""
    for o in prange(len(starts) - 1):
        g = grad[o]
        for i in range(starts[o], starts[o + 1]):
            row = x[columns[i]]
            total = np.float32(0)
            for t in range(g.size):
                total += g[t] * row[t]
            out[i] = total


@kernel
def gather_rows(values, columns, starts, tokens, out):
    """out [width, n], given as zeros: column t is row `tokens[t]` of the matrix."""
    for t in prange(len(tokens)):
        for i in range(starts[tokens[t]], starts[tokens[t] + 1]):
            out[columns[i], t] = values[i]


@kernel
def gather_gradient(columns, starts, by_token, token_starts, grad, out):
    """out [nonzeros]: the gradient of each value from that of `gather_rows` [width, n].

    The places of token v are `by_token[token_starts[v]]` up to `by_token[token_starts[v + 1] - 1]`.
    """
    for v in prange(len(starts) - 1):
        for i in range(starts[v], starts[v + 1]):
            total = np.float32(0)
            for place in range(token_starts[v], token_starts[v + 1]):
                total += grad[columns[i], by_token[place]]
            out[i] = total

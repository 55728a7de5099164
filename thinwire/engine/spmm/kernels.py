"""CPU kernels of products of a sparse matrix (CSR, see `CsrMatrix`) and feature-major activations.

A row of the result is the sum of the row's nonzeros times the input features they read, four at a time, so that most
rows of a very sparse matrix are written once.
"""

import numpy as np
from numba import prange

from thinwire.engine.jit import allocating, device_function, kernel, reassociating_kernel
from thinwire.engine.simd.rows import has_nonzero
from thinwire.engine.spmm.pattern import CsrMatrix

ROWS = 16
"""Rows of the result that a thread computes together."""
TOKENS = 2048
"""Tokens that a thread computes together."""


@kernel
def multiply(matrix, x, out):
    """out [rows, n] = matrix · x [in, n] + bias [rows]."""
    n_rows, n = out.shape
    row_blocks = (n_rows + ROWS - 1) // ROWS
    token_blocks = (n + TOKENS - 1) // TOKENS
    for job in prange(row_blocks * token_blocks):
        begin = (job // row_blocks) * TOKENS
        end = min(n, begin + TOKENS)
        first = (job % row_blocks) * ROWS
        _multiply_rows(matrix, x, first, min(n_rows, first + ROWS), begin, end, out)


@device_function
def _multiply_rows(matrix, x, first, last, begin, end, out):
    for o in range(first, last):
        indptr = matrix.indptr
        multiply_row(matrix, indptr[o], indptr[o + 1], matrix.bias[o], x, out[o, begin:end], begin)


@allocating
def without_zero_rows(matrix, x):
    """The matrix without the nonzeros whose input feature in x [in, n] is zero for every token."""
    is_read = np.empty(len(x), np.bool_)
    for i in range(len(x)):
        is_read[i] = has_nonzero(x[i])
    values, indices = np.empty(len(matrix.values), np.float32), np.empty(len(matrix.values), np.int32)
    indptr, n = np.zeros(len(matrix.indptr), np.int32), 0
    for o in range(len(indptr) - 1):
        for i in range(matrix.indptr[o], matrix.indptr[o + 1]):
            values[n], indices[n] = matrix.values[i], matrix.indices[i]
            n += np.int64(is_read[indices[n]])
        indptr[o + 1] = n
    return CsrMatrix(values[:n], indices[:n], indptr, matrix.bias)


@device_function
def multiply_row(matrix, begin, end, constant, x, y, offset):
    """y = constant + Σ over nonzeros begin … end - 1 of value · x[index, offset:offset + len(y)]."""
    n, values, indices = y.size, matrix.values, matrix.indices
    odd = (end - begin) % 4
    i = begin + odd
    if odd == 0:
        for t in range(n):
            y[t] = constant
    else:
        a, first = values[begin], x[indices[begin], offset : offset + n]
        if odd == 1:
            for t in range(n):
                y[t] = constant + a * first[t]
        else:
            b, second = values[begin + 1], x[indices[begin + 1], offset : offset + n]
            if odd == 2:
                for t in range(n):
                    y[t] = constant + (a * first[t] + b * second[t])
            else:
                c, third = values[begin + 2], x[indices[begin + 2], offset : offset + n]
                for t in range(n):
                    y[t] = constant + (a * first[t] + b * second[t] + c * third[t])
    while i < end:
        a, first = values[i], x[indices[i], offset : offset + n]
        b, second = values[i + 1], x[indices[i + 1], offset : offset + n]
        c, third = values[i + 2], x[indices[i + 2], offset : offset + n]
        d, fourth = values[i + 3], x[indices[i + 3], offset : offset + n]
        for t in range(n):
            y[t] += (a * first[t] + b * second[t]) + (c * third[t] + d * fourth[t])
        i += 4


@reassociating_kernel
def weight_gradient(indices, indptr, x, grad, out):
    """out [nonzeros] = the gradient of each value, from x [in, n] and the gradient [rows, n] of the product."""
    for o in prange(len(indptr) - 1):
        d_row = grad[o]
        for i in range(indptr[o], indptr[o + 1]):
            row = x[indices[i]]
            total = np.float32(0)
            for t in range(d_row.size):
                total += d_row[t] * row[t]
            out[i] = total


@kernel
def gather_rows(values, indices, indptr, tokens, out):
    """out [width, n], zeros before: column t becomes row `tokens[t]` of the matrix."""
    for t in prange(len(tokens)):
        for i in range(indptr[tokens[t]], indptr[tokens[t] + 1]):
            out[indices[i], t] = values[i]


@kernel
def gather_gradient(indices, indptr, by_token, token_indptr, grad, out):
    """out [nonzeros] = the gradient of each value, from that of the result of `gather_rows` [width, n].

    Token v stands at `by_token[token_indptr[v]]` up to `by_token[token_indptr[v + 1] - 1]`.
    """
    for v in prange(len(indptr) - 1):
        for i in range(indptr[v], indptr[v + 1]):
            total = np.float32(0)
            for place in range(token_indptr[v], token_indptr[v + 1]):
                total += grad[indices[i], by_token[place]]
            out[i] = total

"""CPU kernels that take feature-major activations from one site to the next: a sparse map, a nonlinearity, AbsTopK.

A tile of tokens passes through all of it while it lies in the cache; only what is left of it is written. The way back
does the same in reverse. A matrix has compressed rows, as in `thinwire.engine.product_kernels`.
"""

import math

import numpy as np
from numba import prange

from thinwire.engine.column_kernels import TOGETHER, keep_tiles, n_jobs, spread, stretch_of
from thinwire.engine.exponential_kernels import LOG2_E, split_power
from thinwire.engine.jit import inner, kernel, making
from thinwire.engine.lanes import LANES, MAGNITUDE
from thinwire.engine.product_kernels import add_row, clear, has_nonzero, is_constant

IDENTITY, RELU, GELU = range(3)
"""Nonlinearities."""
A1, A3, A5, A7, A9, A11, A13 = (
    np.float32(a)
    for a in (
        -1.60960333262415e-02,
        -2.95459980854025e-03,
        -7.34990630326855e-04,
        -5.69250639462346e-05,
        -2.10102402082508e-06,
        2.77068142495902e-08,
        -2.72614225801306e-10,
    )
)
B0, B2, B4, B6, B8 = (
    np.float32(b)
    for b in (
        -1.42647390514189e-02,
        -7.37332916720468e-03,
        -1.68282697438203e-03,
        -2.13374055278905e-04,
        -1.45660718464996e-05,
    )
)
"""erf(x) is a ratio of polynomials, odd over even, to 4.2e-7 for |x| up to 4; the coefficients are those of Eigen."""
ROOT_HALF, ROOT_TWO_PI = np.float32(math.sqrt(0.5)), np.float32(1 / math.sqrt(2 * math.pi))


@kernel
def map_and_keep(values, columns, starts, bias, x, nonlinearity, k, threads, out, before, short):
    """out [rows, n] = AbsTopK of the nonlinearity of matrix · x [in, n] + bias, as int32 bits of floats.

    `before` [rows, n] takes what the nonlinearity is given, unless it is empty; `short` [n] says of which tokens fewer
    than k numbers are not zero, and is true where k is the number of rows.

    Rows that are the same for all tokens are computed once. V others move at most V of these in or out: the k - V
    largest constants stay whatever the others are, and one with k larger constants never does. The constants between
    compete with the V rows for V places; zeros need not.
    """
    rows, n = out.shape
    varies = _varying_rows(columns, starts, x)
    given, fixed = _constants(values, columns, starts, bias, x, nonlinearity, varies)
    order = _largest_first(fixed, varies)
    sure = min(max(0, k - np.count_nonzero(varies)), len(order))
    fixed_kept = np.zeros(rows, np.float32)
    fixed_kept[order[:sure]] = fixed[order[:sure]]
    competes = varies.copy()
    competes[order[sure:k]] = True
    competing = np.flatnonzero(competes)
    together = stretch_of(n, threads)
    groups = (n + together - 1) // together
    jobs = n_jobs(groups, threads)
    for job in prange(jobs):
        tiles = np.empty((together // LANES, 2, len(competing), LANES), np.int16)
        made = np.empty(together, np.float32)
        bits = made.view(np.int32)
        for group in range(job * groups // jobs, (job + 1) * groups // jobs):
            begin = group * together
            end = min(n, begin + together)
            _fill(varies, given, fixed_kept, begin, end, out, before)
            for i in range(len(competing)):
                o = competing[i]
                if varies[o]:
                    _make_row(o, values, columns, starts, bias, x, nonlinearity, begin, end, made, before)
                else:
                    made[:] = fixed[o]
                _lay_row(bits, end - begin, tiles, i)
            keep_tiles(tiles, competing, k - sure, begin, end, out, short)
    if k == rows:
        for t in range(n):
            short[t] = True


@inner
def _make_row(o, values, columns, starts, bias, x, nonlinearity, begin, end, made, before):
    """Row o of the result for a stretch of tokens, first in `made`; see `map_and_keep`."""
    stretch = made[: end - begin]
    add_row(values, columns, starts[o], starts[o + 1], bias[o], x, stretch, begin)
    if before.size:
        row = before[o, begin:end]
        for t in range(len(row)):
            row[t] = stretch[t]
    apply(nonlinearity, stretch)


@inner
def _lay_row(numbers, n, tiles, i):
    """`spread` for the first n: here, where a slice is not counted."""
    spread(numbers[:n], tiles, i)


@making
def _varying_rows(columns, starts, x):
    """Which rows of a matrix have a product with x [in, n] that may differ from token to token: bool [rows]."""
    alike = np.empty(len(x), np.bool_)
    for i in range(len(x)):
        alike[i] = is_constant(x[i])
    varies = np.zeros(len(starts) - 1, np.bool_)
    for o in range(len(varies)):
        for i in range(starts[o], starts[o + 1]):
            varies[o] |= not alike[columns[i]]
    return varies


@making
def _constants(values, columns, starts, bias, x, nonlinearity, varies):
    """What the nonlinearity is given and makes of it in rows that do not vary: [rows], of no meaning in the others."""
    given = np.zeros(len(bias), np.float32)
    for o in range(len(bias)):
        if not varies[o]:
            add_row(values, columns, starts[o], starts[o + 1], bias[o], x, given[o : o + 1], 0)
    fixed = given.copy()
    apply(nonlinearity, fixed)
    return given, fixed


@making
def _largest_first(fixed, varies):
    """The constant rows that are not zero, by falling magnitude, then index."""
    order, n = np.empty(len(fixed), np.int64), 0
    for o in range(len(fixed)):
        order[n] = o
        n += np.int64(not varies[o] and fixed[o] != 0)
    order = order[:n]
    return order[np.argsort(-(fixed.view(np.int32)[order] & np.int32(MAGNITUDE)), kind="mergesort")]


@inner
def _fill(varies, given, fixed_kept, begin, end, out, before):
    """Write the constant rows of a stretch of tokens; those that compete are written again."""
    numbers = fixed_kept.view(np.int32)
    for o in range(len(varies)):
        if not varies[o]:
            out[o, begin:end] = numbers[o]
            if before.size:
                before[o, begin:end] = given[o]


@kernel
def pass_back(kept, before, grad, nonlinearity, short, out):
    """Gradient [rows, n] of what the nonlinearity was given, from that of the result of `map_and_keep`."""
    for i in prange(len(kept)):
        slope, bits = np.empty(TOGETHER, np.float32), np.empty(TOGETHER, np.int32)
        _pass_row(i, kept, before, grad, nonlinearity, short, slope, bits, bits.view(np.float32), out)


@inner
def _pass_row(i, kept, before, grad, nonlinearity, short, slope, bits, powers, out):
    """`pass_back` for row i; `slope`, and `bits` and `powers` in one place, are scratch."""
    n = kept.shape[1]
    for begin in range(0, n, TOGETHER):
        end = min(n, begin + TOGETHER)
        row, given, made, passed = kept[i, begin:end], grad[i, begin:end], out[i, begin:end], short[begin:end]
        if not has_nonzero(given):
            clear(made)
            continue
        for t in range(len(made)):
            made[t] = given[t] if row[t] != 0 or passed[t] else np.float32(0)
        if nonlinearity == GELU:
            _gelu_slope(before[i, begin:end], slope, bits, powers)
            for t in range(len(made)):
                made[t] *= slope[t]
        elif nonlinearity == RELU:
            was = before[i, begin:end]
            for t in range(len(made)):
                made[t] = made[t] if was[t] > 0 else np.float32(0)


@inner
def _erf(y):
    y = y if y > np.float32(-4) else np.float32(-4)
    y = y if y < np.float32(4) else np.float32(4)
    z = y * y
    above = A1 + z * (A3 + z * (A5 + z * (A7 + z * (A9 + z * (A11 + z * A13)))))
    below = B0 + z * (B2 + z * (B4 + z * (B6 + z * B8)))
    return y * above / below


@inner
def apply(nonlinearity, row):
    """Replace a row by what the nonlinearity makes of it."""
    if nonlinearity == GELU:
        _gelu(row)
    elif nonlinearity == RELU:
        for t in range(len(row)):
            row[t] = max(row[t], np.float32(0))


@inner
def _gelu(row):
    for t in range(len(row)):
        x = row[t]
        row[t] = x * (np.float32(0.5) + np.float32(0.5) * _erf(x * ROOT_HALF))


@inner
def _gelu_slope(row, slope, bits, powers):
    for t in range(len(row)):
        x = row[t]
        bits[t], power = split_power(-x * x * np.float32(0.5) * LOG2_E)
        slope[t] = power
    for t in range(len(row)):
        x = row[t]
        density = slope[t] * powers[t] * ROOT_TWO_PI
        slope[t] = np.float32(0.5) + np.float32(0.5) * _erf(x * ROOT_HALF) + x * density

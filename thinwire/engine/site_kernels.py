"""CPU kernels that take feature-major activations from one site to the next: a sparse map, a nonlinearity, AbsTopK.

A tile of tokens passes through all of it while it lies in the cache; only what is left of it is written. The way back
does the same in reverse. A matrix has compressed rows, as in `thinwire.engine.product_kernels`.
"""

import math

import numpy as np
from numba import prange

from thinwire.engine.attention_kernels import LOG2_E, split_power
from thinwire.engine.column_kernels import TOGETHER, keep_tiles, n_jobs, spread, stretch_of
from thinwire.engine.jit import inner, kernel
from thinwire.engine.lanes import LANES, MAGNITUDE, new_state
from thinwire.engine.product_kernels import add_row, clear, has_nonzero

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
    than k numbers are not zero.
    """
    n = out.shape[1]
    live = _live_rows(starts, bias)
    together = stretch_of(n, threads)
    groups = (n + together - 1) // together
    jobs = n_jobs(groups, threads)
    for job in prange(jobs):
        tiles, state = np.empty((together // LANES, len(live), LANES), np.int32), new_state()
        made = np.empty(together, np.float32)
        for group in range(job * groups // jobs, (job + 1) * groups // jobs):
            begin = group * together
            end = min(n, begin + together)
            stretch = made[: end - begin]
            _clear(out, before, begin, end, len(live))
            for i in range(len(live)):
                o = live[i]
                add_row(values, columns, starts[o], starts[o + 1], bias[o], x, stretch, begin)
                if before.size:
                    before[o, begin:end] = stretch
                _apply(nonlinearity, stretch)
                spread(stretch.view(np.int32), tiles, i)
            keep_tiles(tiles, live, k, state, begin, end, out, short)


@inner
def varying_rows(columns, starts, x):
    """The rows of a matrix whose product with x [in, n] is not the same for all tokens, as far as x tells."""
    varies = np.empty(len(x), np.bool_)
    for i in range(len(x)):
        varies[i] = not _is_alike(x[i])
    found, n = np.empty(len(starts) - 1, np.int64), 0
    for o in range(len(starts) - 1):
        n_varying = 0
        for i in range(starts[o], starts[o + 1]):
            n_varying += np.int64(varies[columns[i]])
        found[n] = o
        n += np.int64(n_varying > 0)
    return found[:n]


@inner
def _is_alike(row):
    """Whether all numbers of a row are the same; looks at a stretch at a time."""
    first = row[0]
    for begin in range(0, len(row), LANES):
        part, others = row[begin : min(len(row), begin + LANES)], 0
        for t in range(len(part)):
            others += np.int32(part[t] != first)
        if others > 0:
            return False
    return True


@kernel
def keep_among_constants(values, columns, starts, bias, x, nonlinearity, k, threads, varying, out, before, short):
    """`map_and_keep` where only the rows `varying` differ from token to token.

    V varying rows move at most V of the others in or out: the k - V largest constants stay whatever those are, and one
    with k larger constants never does. The rest, V at most, compete with the varying rows for V places.
    """
    rows, n = out.shape
    given, fixed, constant = _constants(values, columns, starts, bias, x, nonlinearity, varying)
    order = constant[np.argsort(-(fixed.view(np.int32)[constant] & np.int32(MAGNITUDE)), kind="mergesort")]
    sure = max(0, k - len(varying))
    contested = order[min(sure, len(order)) : min(k, len(order))]
    competing = np.sort(np.concatenate((varying, contested)))
    varies = np.zeros(rows, np.bool_)
    varies[varying] = True
    _fill(out, before, order, contested, sure, given, fixed)
    together = stretch_of(n, threads)
    groups = (n + together - 1) // together
    jobs = n_jobs(groups, threads)
    for job in prange(jobs):
        tiles, state = np.empty((together // LANES, len(competing), LANES), np.int32), new_state()
        made = np.empty(together, np.float32)
        for group in range(job * groups // jobs, (job + 1) * groups // jobs):
            begin = group * together
            end = min(n, begin + together)
            stretch = made[: end - begin]
            for i in range(len(competing)):
                o = competing[i]
                if varies[o]:
                    add_row(values, columns, starts[o], starts[o + 1], bias[o], x, stretch, begin)
                    if before.size:
                        before[o, begin:end] = stretch
                    _apply(nonlinearity, stretch)
                else:
                    stretch[:] = fixed[o]
                spread(stretch.view(np.int32), tiles, i)
            keep_tiles(tiles, competing, k - sure, state, begin, end, out, short)
    if k == rows or (0 < sure <= len(order) and fixed[order[sure - 1]] == 0) or sure > len(order):
        for t in range(n):
            short[t] = True


@inner
def _constants(values, columns, starts, bias, x, nonlinearity, varying):
    """What the nonlinearity is given and makes of it in rows that do not vary [rows], and which these are."""
    rows = len(bias)
    given, constant, n, place = bias.copy(), np.empty(rows, np.int64), 0, 0
    for o in range(rows):
        if place < len(varying) and varying[place] == o:
            place += 1
            continue
        for i in range(starts[o], starts[o + 1]):
            given[o] += values[i] * x[columns[i], 0]
        constant[n] = o
        n += 1
    fixed = given.copy()
    _apply(nonlinearity, fixed)
    return given, fixed, constant[:n]


@inner
def _fill(out, before, order, contested, sure, given, fixed):
    """Write the constant rows that are not contested: the first `sure` of them in order as they are, others as zero."""
    numbers = fixed.view(np.int32)
    for rank in range(len(order)):
        o = order[rank]
        if rank < sure or rank >= sure + len(contested):
            out[o] = numbers[o] if rank < sure else 0
        if before.size:
            before[o] = given[o]


@inner
def _live_rows(starts, bias):
    """The rows that are not zero whatever the input: those with a nonzero or a bias."""
    live, n = np.empty(len(bias), np.int64), 0
    for o in range(len(bias)):
        live[n] = o
        n += np.int64(starts[o] < starts[o + 1] or bias[o] != 0)
    return live[:n]


@inner
def _clear(out, before, begin, end, n_live):
    """Zero a stretch of tokens, of which only live rows will be written."""
    if n_live < out.shape[0]:
        for o in range(out.shape[0]):
            out[o, begin:end] = 0
            if before.size:
                before[o, begin:end] = 0


@kernel
def pass_back(kept, before, grad, nonlinearity, short, out):
    """Gradient [rows, n] of what the nonlinearity was given, from that of the result of `map_and_keep`."""
    rows, n = kept.shape
    for i in prange(rows):
        slope, bits = np.empty(TOGETHER, np.float32), np.empty(TOGETHER, np.int32)
        powers = bits.view(np.float32)
        for begin in range(0, n, TOGETHER):
            end = min(n, begin + TOGETHER)
            row, given, made, passed = kept[i, begin:end], grad[i, begin:end], out[i, begin:end], short[begin:end]
            if not has_nonzero(given):
                clear(made)
                continue
            for t in range(end - begin):
                made[t] = given[t] if row[t] != 0 or passed[t] else np.float32(0)
            if nonlinearity == GELU:
                _gelu_slope(before[i, begin:end], slope, bits, powers)
                for t in range(end - begin):
                    made[t] *= slope[t]
            elif nonlinearity == RELU:
                was = before[i, begin:end]
                for t in range(end - begin):
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
def _apply(nonlinearity, row):
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

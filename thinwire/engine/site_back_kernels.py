"""CPU kernels of the way back from one site to the one before: holding, AbsTopK, a nonlinearity, a sparse map.

Row by row, a stretch of tokens passes through all of it; what is added up to the gradient of the input lies in the
cache meanwhile. A matrix has compressed rows, as in `thinwire.engine.product_kernels`.
"""

import numpy as np
from numba import prange

from thinwire.engine.ahead import AHEAD, read_ahead, read_inputs_ahead, write_ahead
from thinwire.engine.column_kernels import n_jobs
from thinwire.engine.jit import inner, summing
from thinwire.engine.nonlinearity_kernels import GELU, RELU, apply, gelu_slope
from thinwire.engine.product_kernels import add_row, clear, has_nonzero

TOGETHER = 128
"""Most tokens that a thread takes at once."""
UNSHARED = 64
"""Tokens that are not shared among threads."""


@summing
def pass_back(matrix, transposed, x, nonlinearity, kept, held, short, grad, stretch, threads, d_x, d_map, d_mask):
    """Gradients of `site_kernels.map_and_keep`, from `grad` of its result `kept`, both [rows, n].

    `matrix` are its values, columns, starts and bias, `transposed` the same of the transposed matrix but a bias; `held`
    are mean, mask and flags. d_x [in, n] is the gradient of the input, and d_map [rows, n] that of what the
    nonlinearity was given; either may have no rows. d_mask [trials, stretches, rows or none] has that of the mask from
    each `stretch` of tokens of a trial. x may be empty, except for GELU and where something is held.
    """
    trials, stretches = d_mask.shape[:2]
    rows, n = len(kept), kept.shape[1] // trials
    groups = trials * stretches
    jobs, gathers = n_jobs(groups, threads), len(d_x) > rows
    for job in prange(jobs):
        tile = np.empty((rows if gathers else len(d_x), stretch), np.float32)
        made, was = np.empty(stretch, np.float32), np.empty(stretch, np.float32)
        scratch = made, was, np.empty(stretch, np.float32), np.empty(rows, np.bool_)
        for group in range(job * groups // jobs, (job + 1) * groups // jobs):
            trial = group // stretches
            begin = trial * n + group % stretches * stretch
            end = min((trial + 1) * n, begin + stretch)
            sums = d_mask[trial, group % stretches]
            of_site = kept, held[0], held[1][trial], held[2], short, grad
            _pass_stretch(matrix, x, nonlinearity, of_site, begin, end, gathers, scratch, tile, d_map, sums)
            if gathers:
                _gather(transposed, tile, begin, end, d_x)
            else:
                _write_out(tile, begin, end, d_x)


@inner
def _pass_stretch(matrix, x, nonlinearity, of_site, begin, end, gathers, scratch, tile, d_map, sums):
    """`pass_back` for a stretch; the tile is d_map where `gathers`, otherwise d_x.

    `of_site` are what was kept, mean, mask of the trial, flags, `short` and the gradient.
    """
    values, columns, starts, bias = matrix
    kept, mean, mask, flags, short, grad = of_site
    n, learns = end - begin, len(sums) > 0
    made, was, slope, passed = scratch
    made, was = made[:n], was[:n]
    if not gathers:
        for c in range(len(tile)):
            clear(tile[c])
    for o in range(-AHEAD, len(kept)):
        _ask(matrix, x, nonlinearity, o + AHEAD, of_site, begin, end, passed)
        if o < 0:
            continue
        given, row, by = grad[o, begin:end], kept[o, begin:end], mask[o] if len(mask) > 0 else np.float32(1)
        if passed[o]:
            if (by != 1 or nonlinearity == GELU) and (by != 0 or learns):
                add_row(values, columns, starts[o], starts[o + 1], bias[o], x, made, begin)
            if by != 1 and (by != 0 or learns):
                row = was
                _remake(nonlinearity, made, flags[o, begin:end], row)
            if learns:
                sums[o] = _dot(given, row, mean[o])
        elif learns:
            sums[o] = 0
        if passed[o] and by != 0:
            if nonlinearity == GELU:
                gelu_slope(made, row, slope)
            _pass_row(nonlinearity, given, by, row, short[begin:end], slope, made)
            if not gathers and len(tile) > 0:
                _scatter(matrix, o, made, tile)
        else:
            clear(made)
        if gathers:
            _copy(made, tile[o, :n])
        if len(d_map) > 0:
            _copy(made, d_map[o, begin:end])


@inner
def _ask(matrix, x, nonlinearity, o, of_site, begin, end, passed):
    """Ask for the gradient of a row after o; if that of o is not zero, as `passed` then says, for all that o needs."""
    kept, _, mask, _, _, grad = of_site
    read_ahead(grad, o + AHEAD, begin, end)
    if o < len(kept):
        passed[o] = has_nonzero(grad[o, begin:end])
        if passed[o]:
            is_free = len(mask) == 0 or mask[o] == 1
            if is_free:
                read_ahead(kept, o, begin, end)
            if nonlinearity == GELU or not is_free:
                read_inputs_ahead(matrix[1], matrix[2], o, x, begin, end)


@inner
def _remake(nonlinearity, given, flags, out):
    """What was kept of a row before it was held."""
    _copy(given, out)
    apply(nonlinearity, out)
    for t in range(len(out)):
        out[t] = out[t] if flags[t] != 0 else np.float32(0)


@inner
def _pass_row(nonlinearity, given, by, row, passed, slope, out):
    """Gradient of what the nonlinearity was given, from that of what is held; `row` was kept, `slope` is GELU's."""
    if nonlinearity == GELU:
        for t in range(len(out)):
            out[t] = by * given[t] * slope[t] if row[t] != 0 or passed[t] else np.float32(0)
    elif nonlinearity == RELU:
        for t in range(len(out)):
            out[t] = by * given[t] if row[t] != 0 else np.float32(0)
    else:
        for t in range(len(out)):
            out[t] = by * given[t] if row[t] != 0 or passed[t] else np.float32(0)


@inner
def _dot(given, row, mean):
    """How much the loss would rise with the mask: the gradient times what holding takes away."""
    total = np.float32(0)
    for t in range(len(given)):
        total += given[t] * (row[t] - mean)
    return total


@inner
def _copy(row, to):
    for t in range(len(to)):
        to[t] = row[t]


@inner
def _scatter(matrix, o, made, tile):
    """Add row o of the matrix times `made` to the rows of the tile."""
    values, columns, starts = matrix[0], matrix[1], matrix[2]
    for i in range(starts[o], starts[o + 1]):
        value, row = values[i], tile[columns[i]]
        for t in range(len(made)):
            row[t] += value * made[t]


@inner
def _write_out(tile, begin, end, d_x):
    for c in range(len(d_x)):
        write_ahead(d_x, c + AHEAD, begin, end)
        _copy(tile[c], d_x[c, begin:end])


@inner
def _gather(transposed, tile, begin, end, d_x):
    """d_x[:, begin:end] = the transposed matrix · the tile."""
    values, rows, starts = transposed
    for c in range(len(d_x)):
        write_ahead(d_x, c + AHEAD, begin, end)
        add_row(values, rows, starts[c], starts[c + 1], np.float32(0), tile, d_x[c, begin:end], 0)

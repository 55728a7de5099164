"""CPU kernels of the way back from one site to the one before: holding, AbsTopK, a nonlinearity, a sparse map.

Row by row, a stretch of tokens passes through all of it in registers; what is added up to the gradient of the input
lies in the cache meanwhile. A matrix has compressed rows, as in `thinwire.engine.product_kernels`.
"""

import numpy as np
from numba import prange

from thinwire.engine.ahead import AHEAD, read_ahead, read_inputs_ahead, write_ahead
from thinwire.engine.jit import inlined, inner, kernel
from thinwire.engine.nonlinearity_kernels import GELU, RELU, applied, gelu_slope
from thinwire.engine.site_kernels import mapped
from thinwire.engine.stretches import LINE, fence, nonzero, store_stretch, stretch, total, where
from thinwire.engine.tiles import NUMBER, TOKENS, empty_tile, flags_part, is_past, n_jobs, part, put, tokens_of
from thinwire.engine.vectors import everywhere


@kernel
def pass_back(matrix, transposed, x, nonlinearity, kept, held, short, grad, threads, d_x, d_map, d_mask):
    """Gradients of `site_kernels.map_and_keep`, from `grad` of its result `kept`, both [rows, n].

    `matrix` are its values, columns, starts and bias, `transposed` the same of the transposed matrix but a bias; `held`
    are mean, mask and flags. d_x [in, n] is the gradient of the input, and d_map [rows, n] that of what the
    nonlinearity was given; either may have no rows. d_mask [trials, stretches, rows or none] has that of the mask from
    each stretch of TOKENS of a trial. x may be empty, except for GELU and where something is held.
    """
    trials, stretches = d_mask.shape[:2]
    rows, n = len(kept), kept.shape[1] // trials
    groups = trials * stretches
    jobs, gathers = n_jobs(groups, threads), len(d_x) > rows
    past = is_past(d_x) and n * NUMBER % LINE == 0  # where a trial begins as well
    for job in prange(jobs):
        tile, spare, passed = empty_tile(rows if gathers else len(d_x)), empty_tile(1), np.empty(rows, np.bool_)
        for group in range(job * groups // jobs, (job + 1) * groups // jobs):
            trial = group // stretches
            begin, end = tokens_of(group, n * trials, trials, stretches)
            of_site = kept, held[0], held[1][trial], held[2], short, grad
            sums = d_mask[trial, group % stretches]
            _pass_stretch(matrix, x, nonlinearity, of_site, begin, end, gathers, spare, passed, tile, d_map, sums)
            if gathers:
                _gather(transposed, tile, begin, end, past, d_x)
            else:
                _write_out(tile, begin, end, past, d_x)
        fence()


@inner
def _pass_stretch(matrix, x, nonlinearity, of_site, begin, end, gathers, spare, passed, tile, d_map, sums):
    """`pass_back` for a stretch; the tile is d_map where `gathers`, otherwise d_x.

    `of_site` are what was kept, mean, mask of the trial, flags, `short` and the gradient; `passed` is for which rows
    have one, and `spare`, a row, for what has to lie in memory.
    """
    values, columns, starts, bias = matrix
    kept, mean, mask, flags, short, grad = of_site
    learns, nothing = len(sums) > 0, everywhere(np.float32(0))
    every = nothing if nonlinearity == RELU else flags_part(short, begin, end, spare)  # of ReLU zeros have no slope
    for c in range(0 if gathers else len(tile)):
        store_stretch(tile[c], 0, nothing)
    for o in range(-AHEAD, len(kept)):
        _ask(matrix, x, nonlinearity, o + AHEAD, of_site, begin, end, passed)
        if o < 0:
            continue
        by, made = mask[o] if len(mask) > 0 else np.float32(1), nothing
        if learns and not passed[o]:
            sums[o] = 0
        if passed[o] and (by != 0 or learns):
            given, row, mapping = part(grad[o], begin, end), nothing, nothing
            if by != 1 or nonlinearity == GELU:
                mapping = mapped(o, values, columns, starts, bias[o], x, begin, end)
            if by == 1:
                row = is_kept = part(kept[o], begin, end)
            else:  # what was kept before it was held
                is_kept = flags_part(flags[o], begin, end, spare)
                row = where(applied(nonlinearity, mapping), is_kept, nothing)
            if learns:
                sums[o] = total(given * (row - mean[o]))
            made = where(by * given, is_kept, every)
            if nonlinearity == GELU:
                made = made * gelu_slope(mapping)
            if by != 0 and not gathers and len(tile) > 0:
                scatter(values, columns, starts, o, made, tile)
        if by == 0:
            made = nothing
        if gathers:
            store_stretch(tile[o], 0, made)
        if len(d_map) > 0:
            put(made, begin, end, False, d_map[o])


@inlined
def _ask(matrix, x, nonlinearity, o, of_site, begin, end, passed):
    """Ask for the gradient of a row after o; if that of o is not zero, as `passed` then says, for all that o needs."""
    kept, _, mask, _, _, grad = of_site
    read_ahead(grad, o + AHEAD, begin, end)
    if o < len(kept):
        passed[o] = nonzero(part(grad[o], begin, end)) != 0
        if passed[o]:
            is_free = len(mask) == 0 or mask[o] == 1
            if is_free:
                read_ahead(kept, o, begin, end)
            if nonlinearity == GELU or not is_free:
                read_inputs_ahead(matrix[1], matrix[2], o, x, begin, end)


@inlined
def scatter(values, columns, starts, o, made, tile):
    """Add row o of the matrix times a stretch to the rows of the tile."""
    for place in range(starts[o], starts[o + 1]):
        row = tile[columns[place]]
        store_stretch(row, 0, stretch(row, 0) + values[place] * made)


@inner
def _write_out(tile, begin, end, past, d_x):
    for c in range(len(d_x)):
        if not past:
            write_ahead(d_x, c + AHEAD, begin, end)
        put(stretch(tile[c], 0), begin, end, past, d_x[c])


@inner
def _gather(transposed, tile, begin, end, past, d_x):
    """d_x[:, begin:end] = the transposed matrix · the tile."""
    values, rows, starts = transposed
    for c in range(len(d_x)):
        if not past:
            write_ahead(d_x, c + AHEAD, begin, end)
        put(mapped(c, values, rows, starts, np.float32(0), tile, 0, TOKENS), begin, end, past, d_x[c])

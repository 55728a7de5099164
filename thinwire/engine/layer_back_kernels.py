"""CPU kernel of the way back through all that a layer does token by token.

It computes a tile of tokens again, from the residual stream before and after and from what the heads returned, and
passes gradients while all of that lies in the caches. See `thinwire.engine.layer_kernels`, whose bits say where.
"""

import numpy as np
from numba import prange

from thinwire.engine.ahead import AHEAD, read_ahead
from thinwire.engine.jit import inlined, inner, kernel
from thinwire.engine.layer_kernels import held
from thinwire.engine.nonlinearity_kernels import GELU, applied, gelu_with_slope
from thinwire.engine.site_back_kernels import scatter
from thinwire.engine.site_kernels import mapped
from thinwire.engine.stretches import LINE, among, fence, nonzero, store_stretch, stretch, total
from thinwire.engine.tiles import NUMBER, TOKENS, empty_tile, is_past, n_jobs, n_tiles, part, put, tokens_of
from thinwire.engine.vectors import everywhere

NOTHING = np.uint64(0)


@kernel
def between_attentions_backward(
    streams,
    heads,
    reads,
    w_o,
    w_in,
    w_out,
    turned,
    nonlinearity,
    next_reads,
    w_q,
    w_k,
    w_v,
    notes,
    threads,
    grads,
    made,
):
    """Gradients of `layer_kernels.between_attentions`, from `grads` of the stream, q, k and v.

    What is `made`: that of the stream, which may have no rows; that of the heads; and that of the mask, from each tile
    of tokens [tiles, nodes or none]. `streams` are the one that was given and the one that was made, `turned` the
    values of `w_out` by its columns, their rows and where columns start, and notes mean, mask, scales and bits.
    """
    stream, out = streams
    mean, mask, scales, kept = notes
    d_out, d_q, d_k, d_v = grads
    d_stream, d_heads, d_mask = made
    width, n = out.shape
    trials, stretches = len(mask), n_tiles(n // len(mask))
    groups = trials * stretches
    jobs = n_jobs(groups, threads)
    d_in = width + max(len(reads[1]), len(next_reads[1]))
    behind = 2 * width + len(reads[1]) + len(w_in[3]) + width if len(heads) > 0 else 0  # nodes up to the next attention
    whole = n // trials * NUMBER % LINE == 0  # lines, where a trial begins as well
    of_stream, of_heads = whole and is_past(d_stream), whole and is_past(d_heads)
    for job in prange(jobs):
        resid, given, deltas, passed = empty_tile(width), empty_tile(d_in), empty_tile(width), empty_tile(width)
        d_resid, d_given = empty_tile(width), empty_tile(max(d_in, len(heads)))
        tiles = resid, given, deltas, passed, d_given, d_resid
        for group in range(job * groups // jobs, (job + 1) * groups // jobs):
            begin, end = tokens_of(group, n, trials, stretches)
            nodes, sums = (mean, mask[group // stretches], kept[group]), d_mask[group]
            _take(d_out, begin, end, d_resid)
            if len(d_q) > 0:
                maps, of_maps = (w_q, w_k, w_v), (d_q, d_k, d_v)
                _pass_begin(out, next_reads, maps, of_maps, scales[1], begin, end, nodes, behind, sums, tiles)
            if len(heads) > 0:
                maps = w_o, w_in, w_out, turned
                _pass_end(stream, heads, reads, maps, nonlinearity, scales[0], begin, end, nodes, sums, tiles)
                _put_all(d_given, begin, end, of_heads, d_heads)
            _put_all(d_resid, begin, end, of_stream, d_stream)
        fence()


@inner
def _pass_begin(out, reads, maps, grads, scales, begin, end, nodes, first, sums, tiles):
    """Add to the gradient of a tile of the stream what comes through q, k and v; nodes are from the first on."""
    resid, given, _, _, d_given, d_resid = tiles
    (w_q, w_k, w_v), (d_q, d_k, d_v) = maps, grads
    scale, d_given = part(scales, begin, end), d_given[: len(resid) + len(reads[1])]
    place, width = first + len(d_given), len(d_q)
    _take(out, begin, end, resid)
    _read_again(resid, reads, scale, begin, end, nodes, first, d_given, given)
    _pass_map(w_q, d_q, given, 0, TOKENS, begin, end, nodes, place, sums, d_given)
    _pass_map(w_k, d_k, given, 0, TOKENS, begin, end, nodes, place + width, sums, d_given)
    _pass_map(w_v, d_v, given, 0, TOKENS, begin, end, nodes, place + 2 * width, sums, d_given)
    _pass_read(resid, reads, scale, begin, end, nodes, first, sums, d_given, d_resid)


@inner
def _pass_end(stream, heads, reads, maps, nonlinearity, scales, begin, end, nodes, sums, tiles):
    """Make of the gradient of a tile of the stream behind an MLP that before an attention's end, and that of heads."""
    resid, given, deltas, passed, d_given, d_resid = tiles
    w_o, w_in, w_out, turned = maps
    width, scale, d_read = len(resid), part(scales, begin, end), d_given[: len(resid) + len(reads[1])]
    _add_again(stream, heads, w_o, begin, end, nodes, resid)
    _read_again(resid, reads, scale, begin, end, nodes, width, d_read, given)
    mlp = w_in, w_out, turned
    _pass_mlp(mlp, nonlinearity, given, d_resid, nodes, width + len(d_read), sums, deltas, passed, d_read)
    _pass_read(resid, reads, scale, begin, end, nodes, width, sums, d_read, d_resid)
    _clear(d_given)
    _pass_map(w_o, d_resid, heads, begin, end, 0, TOKENS, nodes, 0, sums, d_given)


@inner
def _clear(tile):
    for i in range(len(tile)):
        store_stretch(tile[i], 0, everywhere(np.float32(0)))


@inner
def _take(x, begin, end, tile):
    """Make a tile of a stretch of all rows."""
    for i in range(len(x)):
        read_ahead(x, i + AHEAD, begin, end)
        store_stretch(tile[i], 0, part(x[i], begin, end))


@inner
def _put_all(tile, begin, end, past, out):
    """Write a tile to a stretch of all rows, if there are any."""
    for i in range(len(out)):
        put(stretch(tile[i], 0), begin, end, past, out[i])


@inlined
def _kept_again(x, o, nodes):
    """What is left of x, a stretch of node o, behind AbsTopK, and held."""
    return held(among(x, nodes[2][o]), o, nodes)


@inner
def _read_again(resid, by, scale, begin, end, nodes, first, d_given, given):
    """What a sublayer reads of a tile of the residual stream, as it was; and no gradient of that yet."""
    gain, positions = by
    width = len(resid)
    for i in range(width):
        store_stretch(given[i], 0, _kept_again(stretch(resid[i], 0) * scale * gain[i], first + i, nodes))
    for i in range(len(positions)):
        x = part(positions[i], begin, end)
        store_stretch(given[width + i], 0, _kept_again(x, first + width + i, nodes))
    _clear(d_given)


@inner
def _add_again(stream, heads, w_o, begin, end, nodes, resid):
    """Make a tile of the residual stream behind an attention, as it was."""
    values, columns, starts, bias = w_o
    for i in range(len(stream)):
        read_ahead(stream, i + AHEAD, begin, end)
        delta = mapped(i, values, columns, starts, bias[i], heads, begin, end)
        store_stretch(resid[i], 0, part(stream[i], begin, end) + _kept_again(delta, i, nodes))


@inlined
def _is_free(o, nodes):
    """Whether what comes before node o has any gradient from it."""
    return len(nodes[1]) == 0 or nodes[1][o] != 0


@inlined
def _note(moved, x, o, nodes, sums):
    """Note the gradient of the mask of node o, whose own gradient moved; x is what AbsTopK was given."""
    mean, _, kept = nodes
    sums[o] = total(moved * (among(x, kept[o]) - mean[o])) if nonzero(moved) != NOTHING else np.float32(0)


@inlined
def _passed(moved, o, nodes):
    """What AbsTopK passes on of a gradient of node o, which was held after it."""
    _, by, kept = nodes
    if not _is_free(o, nodes):
        return everywhere(np.float32(0))
    return among(by[o] * moved if len(by) > 0 else moved, kept[o])


@inner
def _pass_map(matrix, d_made, x, x_begin, x_end, begin, end, nodes, first, sums, d_x):
    """Add to d_x, a tile, what comes of d_made[:, begin:end] through a map of x[:, x_begin:x_end]."""
    values, columns, starts, bias = matrix
    for o in range(len(bias)):
        read_ahead(d_made, o + AHEAD, begin, end)
        moved = part(d_made[o], begin, end)
        moves = nonzero(moved) != NOTHING
        if moves and len(sums) > 0:
            _note(moved, mapped(o, values, columns, starts, bias[o], x, x_begin, x_end), first + o, nodes, sums)
        elif len(sums) > 0:
            sums[first + o] = 0
        if moves and _is_free(first + o, nodes):
            scatter(values, columns, starts, o, _passed(moved, first + o, nodes), d_x)


@inner
def _pass_read(resid, by, scale, begin, end, nodes, first, sums, d_given, d_resid):
    """Add to d_resid, a tile, what comes of a gradient of what is read."""
    gain, positions = by
    width = len(resid)
    along = everywhere(np.float32(0))
    for i in range(width):
        x = stretch(resid[i], 0)
        if len(sums) > 0:
            _note(stretch(d_given[i], 0), x * scale * gain[i], first + i, nodes, sums)
        moved = gain[i] * _passed(stretch(d_given[i], 0), first + i, nodes)
        along += x * moved
        store_stretch(d_given[i], 0, moved)
    for i in range(len(positions) if len(sums) > 0 else 0):
        _note(stretch(d_given[width + i], 0), part(positions[i], begin, end), first + width + i, nodes, sums)
    along = along * scale * scale * (np.float32(1) / np.float32(width))
    for i in range(width):
        made = scale * (stretch(d_given[i], 0) - stretch(resid[i], 0) * along)
        store_stretch(d_resid[i], 0, stretch(d_resid[i], 0) + made)


@inner
def _pass_mlp(maps, nonlinearity, given, d_resid, nodes, first, sums, deltas, passed, d_given):
    """Add to d_given, a tile, what comes of d_resid through both maps of an MLP, whose nodes are from the first on.

    Two tiles are for what the second map makes, which only the gradient of the mask needs, and for its gradient.
    """
    (values, columns, starts, bias), (_, _, _, last_bias), (last_values, rows, last_starts) = maps
    last, learns = first + len(bias), len(sums) > 0
    for i in range(len(d_resid)):
        store_stretch(passed[i], 0, _passed(stretch(d_resid[i], 0), last + i, nodes))
        if learns:
            store_stretch(deltas[i], 0, everywhere(last_bias[i]))
    for o in range(len(bias)):
        mapping, is_free = mapped(o, values, columns, starts, bias[o], given, 0, TOKENS), _is_free(first + o, nodes)
        if nonlinearity == GELU and is_free:
            x, slope = gelu_with_slope(mapping)
        else:
            x, slope = applied(nonlinearity, mapping), everywhere(np.float32(1))
        moved, between = everywhere(np.float32(0)), _kept_again(x, first + o, nodes)
        for place in range(last_starts[o], last_starts[o + 1]):
            i = rows[place]
            moved += last_values[place] * stretch(passed[i], 0)
            if learns:
                store_stretch(deltas[i], 0, stretch(deltas[i], 0) + last_values[place] * between)
        if learns:
            _note(moved, x, first + o, nodes, sums)
        if is_free:
            scatter(values, columns, starts, o, _passed(moved, first + o, nodes) * slope, d_given)
    for i in range(len(d_resid) if learns else 0):
        _note(stretch(d_resid[i], 0), stretch(deltas[i], 0), last + i, nodes, sums)

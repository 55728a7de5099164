"""CPU kernel of all that a layer does token by token, from what one attention returns to what the next one asks.

A tile of tokens passes through it while it lies in the caches; nothing between is written. For activations that nobody
looks at: see `thinwire.engine.site_kernels` for the others. Nodes of its sites may be held, and one bit for each says
where the way back, `thinwire.engine.layer_back_kernels`, passes a gradient; that computes the rest again.

Both take for their sites, one behind the other in the order they are passed, `mean` [nodes], `mask` [trials, nodes] and
`kept`, bits [tiles, nodes], a bit for each token of a tile. The tokens lie trial by trial, and no tile has tokens of
two. A mask without nodes holds none; bits without nodes are not written.
"""

import numpy as np
from numba import prange

from thinwire.engine.ahead import AHEAD, write_ahead
from thinwire.engine.column_kernels import keep_in_place, settled, towards
from thinwire.engine.jit import inlined, inner, kernel
from thinwire.engine.nonlinearity_kernels import IDENTITY, RELU, applied
from thinwire.engine.pointwise_kernels import scale_of_squares
from thinwire.engine.read_kernels import norm
from thinwire.engine.site_kernels import mapped
from thinwire.engine.stretches import LINE, fence, nonzero, reaching, store_stretch, stretch
from thinwire.engine.threshold_search import lay, search_scratch
from thinwire.engine.tiles import NUMBER, TOKENS, empty_tile, is_past, n_jobs, n_tiles, part, put, tokens_of
from thinwire.engine.vectors import everywhere


@kernel
def between_attentions(
    stream, heads, reads, w_o, w_in, w_out, nonlinearity, next_reads, w_q, w_k, w_v, hold, ks, epsilons, threads, made
):
    """What is `made`: the residual stream [width, n] behind an MLP; q, k and v, each [d_heads, n], asked of it; notes.

    It begins with `stream` [width, n], to which the heads [d_heads, n] of an attention are added, and then the MLP;
    neither if there are no heads. There may be no q, k and v. The MLP `reads` with a gain [width] and rows of position
    channels [d_pos, n], and so does the next attention; `epsilons` are those of their norms. Matrices are values,
    columns, starts and bias. `hold` are mean and mask. `ks` is how many AbsTopK keeps: of the stream, of both reads,
    and of what each matrix makes. Notes, for the way back, are what both norms multiply by [2, n or none], and bits.
    """
    out, q, k, v, scales, kept = made
    mean, mask = hold
    k_stream, k_in, k_asked, k_written, k_between, k_delta, k_q, k_k, k_v = ks
    width, n = stream.shape
    trials, stretches = len(mask), n_tiles(n // len(mask))
    groups = trials * stretches
    jobs = n_jobs(groups, threads)
    d_in, d_mlp, d_made = width + max(len(reads[1]), len(next_reads[1])), len(w_in[3]), max(width, len(q))
    whole = n // trials * NUMBER % LINE == 0  # lines, where a trial begins as well
    of_stream, of_heads = whole and is_past(out), whole and is_past(q) and is_past(k) and is_past(v)
    for job in prange(jobs):
        resid, given, between, deltas = empty_tile(width), empty_tile(d_in), empty_tile(d_mlp), empty_tile(d_made)
        rows, scratch, short = empty_tile(2), search_scratch(max(d_in, d_made, d_mlp)), np.empty(TOKENS, np.bool_)
        spare = rows, scratch, short
        for group in range(job * groups // jobs, (job + 1) * groups // jobs):
            begin, end = tokens_of(group, n, trials, stretches)
            used, nodes = end - begin, (mean, mask[group // stretches], kept[group])
            for i in range(width):
                store_stretch(resid[i], 0, part(stream[i], begin, end))
            first = 0
            if len(heads) > 0:
                _add_kept(heads, begin, end, used, w_o, k_written, k_stream, nodes, first, spare, deltas, resid)
                first += width
                _read(resid, reads, k_in, epsilons[0], begin, end, nodes, first, spare, scales[0], given)
                first += width + len(reads[1])
                _lay_product(w_in, given, 0, TOKENS, nonlinearity, scratch, between)
                _keep(between, k_between, used, nonlinearity, nodes, first, scratch, short)
                first += d_mlp
                _add_kept(between, 0, TOKENS, used, w_out, k_delta, k_stream, nodes, first, spare, deltas, resid)
                first += width
            if len(q) > 0:
                _read(resid, next_reads, k_asked, epsilons[1], begin, end, nodes, first, spare, scales[1], given)
                first += width + len(next_reads[1])
                _write_kept(given, w_q, k_q, begin, end, of_heads, nodes, first, spare, deltas, q)
                _write_kept(given, w_k, k_k, begin, end, of_heads, nodes, first + len(q), spare, deltas, k)
                _write_kept(given, w_v, k_v, begin, end, of_heads, nodes, first + 2 * len(q), spare, deltas, v)
            for i in range(width):
                if not of_stream:
                    write_ahead(out, i + AHEAD, begin, end)
                put(stretch(resid[i], 0), begin, end, of_stream, out[i])
        fence()


@inlined
def held(x, o, nodes):
    """x, a stretch of node o, moved towards its mean where the mask is not 1, all the way where it is 0."""
    mean, by, _ = nodes
    return towards(mean[o], x, by[o]) if len(by) > 0 and by[o] != 1 else x


@inlined
def _noted(x, o, nodes, every):
    """x, held; it is noted where x is not zero, and `every` lane through which all gradients pass."""
    if len(nodes[2]) > 0:
        nodes[2][o] = nonzero(x) | every
    return held(x, o, nodes)


@inner
def _settled(tile, k, used, scratch, short):
    """As `settled`; and, a bit for each, the lanes in which fewer than k numbers are not zero."""
    least, every = settled(tile, k, used, scratch, short), np.uint64(0)
    for lane in range(used):
        every |= np.uint64(short[lane]) << np.uint64(lane)
    return least, every


@inner
def _lay_product(matrix, x, begin, end, nonlinearity, scratch, tile):
    """The first rows of a tile = the nonlinearity of a matrix times x[:, begin:end]."""
    values, columns, starts, bias = matrix
    for o in range(len(bias)):
        lay(tile, o, applied(nonlinearity, mapped(o, values, columns, starts, bias[o], x, begin, end)), scratch)


@inner
def _keep(tile, k, used, nonlinearity, nodes, first, scratch, short):
    """Zero what AbsTopK does not keep of a tile that is laid, and hold it, nodes from the first on."""
    if len(nodes[1]) + len(nodes[2]) == 0:
        keep_in_place(tile, k, used, scratch, short)
        return
    least, every = _settled(tile, k, used, scratch, short)
    every = np.uint64(0) if nonlinearity == RELU else every  # of ReLU zeros have no slope
    for i in range(len(tile)):
        store_stretch(tile[i], 0, _noted(reaching(stretch(tile[i], 0), least), first + i, nodes, every))


@inner
def _add_kept(x, begin, end, used, matrix, k, k_stream, nodes, first, spare, made, resid):
    """Add what AbsTopK keeps of a matrix times x[:, begin:end], held, to a tile of the residual stream."""
    _, scratch, short = spare
    made = made[: len(resid)]
    _lay_product(matrix, x, begin, end, IDENTITY, scratch, made)
    least, every = _settled(made, k, used, scratch, short)
    for i in range(len(resid)):
        delta = _noted(reaching(stretch(made[i], 0), least), first + i, nodes, every)
        store_stretch(resid[i], 0, stretch(resid[i], 0) + delta)
    if k_stream < len(resid):
        for i in range(len(resid)):
            lay(resid, i, stretch(resid[i], 0), scratch)
        keep_in_place(resid, k_stream, used, scratch, short)


@inner
def _read(resid, by, k, epsilon, begin, end, nodes, first, spare, scales, given):
    """Make a tile of what AbsTopK keeps of the norm of the residual stream, and of position channels, held."""
    gain, positions = by
    rows, scratch, short = spare
    width = len(resid)
    total = everywhere(np.float32(0))
    for i in range(width):
        x = stretch(resid[i], 0)
        total += x * x
    store_stretch(rows[0], 0, total)
    scale_of_squares(rows[0], width, epsilon, rows[1])
    if len(scales) > 0:
        put(stretch(rows[1], 0), begin, end, False, scales)
    norm(resid, gain, stretch(rows[1], 0), scratch, given)
    for i in range(len(positions)):
        lay(given, width + i, part(positions[i], begin, end), scratch)
    _keep(given[: width + len(positions)], k, end - begin, IDENTITY, nodes, first, scratch, short)


@inner
def _write_kept(given, matrix, k, begin, end, past, nodes, first, spare, made, out):
    """out[:, begin:end] = what AbsTopK keeps of a matrix times a tile, held."""
    _, scratch, short = spare
    made = made[: len(out)]
    _lay_product(matrix, given, 0, TOKENS, IDENTITY, scratch, made)
    least, every = _settled(made, k, end - begin, scratch, short)
    for i in range(len(out)):
        if not past:
            write_ahead(out, min(i + AHEAD, len(out) - 1), begin, end)
        x = _noted(reaching(stretch(made[i], 0), least), first + i, nodes, every)
        put(x, begin, end, past, out[i])

"""CPU kernel of all that a layer does token by token, from what one attention returns to what the next one asks.

A tile of tokens passes through it while it lies in the caches; nothing between is written. For activations that nobody
looks at and no gradient needs: see `thinwire.engine.site_kernels` for the others.
"""

import numpy as np
from numba import prange

from thinwire.engine.ahead import AHEAD, write_ahead
from thinwire.engine.column_kernels import keep_in_place, settled
from thinwire.engine.jit import inner, kernel
from thinwire.engine.nonlinearity_kernels import IDENTITY, applied
from thinwire.engine.pointwise_kernels import scale_of_squares
from thinwire.engine.read_kernels import norm
from thinwire.engine.site_kernels import mapped
from thinwire.engine.stretches import fence, reaching, store_stretch, stretch
from thinwire.engine.threshold_search import lay, search_scratch
from thinwire.engine.tiles import TOKENS, empty_tile, is_past, n_jobs, n_tiles, part, put
from thinwire.engine.vectors import everywhere


@kernel
def between_attentions(
    stream, heads, reads, w_o, w_in, w_out, nonlinearity, next_reads, w_q, w_k, w_v, ks, epsilons, threads, out, q, k, v
):
    """out [width, n] = the residual stream behind an MLP, and q, k and v, each [d_heads, n], that are asked of it.

    It begins with `stream` [width, n], to which the heads [d_heads, n] of an attention are added, and then the MLP;
    neither if there are no heads. There may be no q, k and v. The MLP `reads` with a gain [width] and rows of position
    channels [d_pos, n], and so does the next attention; `epsilons` are those of their norms. Matrices are values,
    columns, starts and bias. `ks` is how many AbsTopK keeps: of the stream, of both reads, and of what each matrix
    makes.
    """
    width, n = stream.shape
    k_stream, k_in, k_asked, k_written, k_between, k_delta, k_q, k_k, k_v = ks
    tiles = n_tiles(n)
    jobs = n_jobs(tiles, threads)
    d_in, d_mlp, d_made = width + max(len(reads[1]), len(next_reads[1])), len(w_in[3]), max(width, len(q))
    of_stream, of_heads = is_past(out), is_past(q)
    for job in prange(jobs):
        resid, given, between, made = empty_tile(width), empty_tile(d_in), empty_tile(d_mlp), empty_tile(d_made)
        rows, scratch, short = empty_tile(2), search_scratch(max(d_in, d_made, d_mlp)), np.empty(TOKENS, np.bool_)
        spare = rows, scratch, short
        for place in range(job * tiles // jobs, (job + 1) * tiles // jobs):
            begin = place * TOKENS
            end = min(n, begin + TOKENS)
            used = end - begin
            for i in range(width):
                store_stretch(resid[i], 0, part(stream[i], begin, end))
            if len(heads) > 0:
                _add_kept(heads, begin, end, used, w_o, k_written, k_stream, spare, made, resid)
                _read(resid, reads, k_in, epsilons[0], begin, end, spare, given)
                _lay_product(w_in, given, 0, TOKENS, nonlinearity, scratch, between)
                keep_in_place(between, k_between, used, scratch, short)
                _add_kept(between, 0, TOKENS, used, w_out, k_delta, k_stream, spare, made, resid)
            if len(q) > 0:
                _read(resid, next_reads, k_asked, epsilons[1], begin, end, spare, given)
                _write_kept(given, w_q, k_q, begin, end, of_heads, spare, made, q)
                _write_kept(given, w_k, k_k, begin, end, of_heads, spare, made, k)
                _write_kept(given, w_v, k_v, begin, end, of_heads, spare, made, v)
            for i in range(width):
                put(stretch(resid[i], 0), begin, end, of_stream, rows[0], out[i])
        fence()


@inner
def _lay_product(matrix, x, begin, end, nonlinearity, scratch, tile):
    """The first rows of a tile = the nonlinearity of a matrix times x[:, begin:end]."""
    values, columns, starts, bias = matrix
    for o in range(len(bias)):
        lay(tile, o, applied(nonlinearity, mapped(o, values, columns, starts, bias[o], x, begin, end)), scratch)


@inner
def _add_kept(x, begin, end, used, matrix, k, k_stream, spare, made, resid):
    """Add what AbsTopK keeps of a matrix times x[:, begin:end] to a tile of the residual stream."""
    _, scratch, short = spare
    made = made[: len(resid)]
    _lay_product(matrix, x, begin, end, IDENTITY, scratch, made)
    least = settled(made, k, used, scratch, short)
    for i in range(len(resid)):
        store_stretch(resid[i], 0, stretch(resid[i], 0) + reaching(stretch(made[i], 0), least))
    if k_stream < len(resid):
        for i in range(len(resid)):
            lay(resid, i, stretch(resid[i], 0), scratch)
        keep_in_place(resid, k_stream, used, scratch, short)


@inner
def _read(resid, by, k, epsilon, begin, end, spare, given):
    """Make a tile of what AbsTopK keeps of the norm of the residual stream, and of position channels, at a stretch."""
    gain, positions = by
    rows, scratch, short = spare
    width = len(resid)
    total = everywhere(np.float32(0))
    for i in range(width):
        x = stretch(resid[i], 0)
        total += x * x
    store_stretch(rows[0], 0, total)
    scale_of_squares(rows[0], width, epsilon, rows[1])
    norm(resid, gain, stretch(rows[1], 0), scratch, given)
    for i in range(len(positions)):
        lay(given, width + i, part(positions[i], begin, end), scratch)
    keep_in_place(given[: width + len(positions)], k, end - begin, scratch, short)


@inner
def _write_kept(given, matrix, k, begin, end, past, spare, made, out):
    """out[:, begin:end] = what AbsTopK keeps of a matrix times a tile."""
    rows, scratch, short = spare
    made = made[: len(out)]
    _lay_product(matrix, given, 0, TOKENS, IDENTITY, scratch, made)
    least = settled(made, k, end - begin, scratch, short)
    for i in range(len(out)):
        if not past:
            write_ahead(out, min(i + AHEAD, len(out) - 1), begin, end)
        put(reaching(stretch(made[i], 0), least), begin, end, past, rows[0], out[i])

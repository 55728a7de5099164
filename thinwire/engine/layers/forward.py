"""CPU kernel of all that layers compute between two attentions, token by token.

A tile of tokens passes through all of it while it lies in the caches; no intermediate result is written. Where
something reads an intermediate result, or a gradient is needed, `thinwire.engine.sites` computes it site by site.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from thinwire.engine.jit import allocating, device_function, inline_function, kernel
from thinwire.engine.layers.parts import KernelBeginning, KernelEnd, KernelMap, KernelRead
from thinwire.engine.simd.lanes import keep_reaching
from thinwire.engine.simd.memory import CACHE_LINE, fence, load, store
from thinwire.engine.simd.nonlinearities import IDENTITY, activate
from thinwire.engine.simd.prefetch import DISTANCE, prefetch_write
from thinwire.engine.simd.tiles import (
    FLOAT_BYTES,
    TOKENS,
    empty_tile,
    is_streamed,
    load_range,
    n_jobs,
    n_tiles,
    store_range,
    token_range,
)
from thinwire.engine.simd.vectors import broadcast
from thinwire.engine.sites.forward import map_vector
from thinwire.engine.sites.norm_kernels import norm_tile
from thinwire.engine.sites.pointwise_kernels import scales_of_squares
from thinwire.engine.topk.columns import ablate_vector, keep_in_place, select_thresholds
from thinwire.engine.topk.threshold import SearchScratch, empty_scratch, store_for_search


class Result(NamedTuple):
    """What the kernel writes."""

    stream: np.ndarray
    """The residual stream. float32 [width, n]"""
    q: np.ndarray
    """What the next attention takes. float32 [d_heads, n]; [0, n] where there is no beginning"""
    k: np.ndarray
    v: np.ndarray


class Tokens(NamedTuple):
    """The tokens of a tile."""

    begin: int
    end: int
    mask: np.ndarray
    """The ablation mask of their trial. float32 [nodes or 0]"""


class Scratch(NamedTuple):
    """What a thread works in."""

    stream: np.ndarray
    """A tile of the residual stream [width, TOKENS]."""
    read: np.ndarray
    """What a sublayer reads, a tile [width and position channels, TOKENS]."""
    hidden: np.ndarray
    """The hidden layer of the MLP, a tile [d_mlp, TOKENS]."""
    mapped: np.ndarray
    """The result of any other map, a tile."""
    rows: np.ndarray
    """Sums of squares, and scales [2, TOKENS]."""
    search: SearchScratch
    short: np.ndarray
    """bool [TOKENS]"""


@allocating
def _empty_scratch(width, d_read, d_mlp, d_heads):
    d_mapped = max(width, d_heads)
    return Scratch(
        empty_tile(width),
        empty_tile(d_read),
        empty_tile(d_mlp),
        empty_tile(d_mapped),
        empty_tile(2),
        empty_scratch(max(d_read, d_mapped, d_mlp)),
        np.empty(TOKENS, np.bool_),
    )


@kernel
def between_attentions(stream, heads, end, beginning, ablation, k_stream, threads, result):
    """Take the residual stream from what one attention returns to what the next one takes: see `Result`.

    `end` and `beginning` are a `KernelEnd` and a `KernelBeginning` as plain tuples of tuples.

    `stream` is [width, n]. The output map of `end` takes `heads` [d_heads, n]; its result, and that of the MLP, are
    added to the stream, of which `k_stream` channels are kept after each addition. Where `heads` has no rows there is
    no end, where q has none there is no beginning. `ablation` is of all sites that are passed, in order; the tokens are
    trial by trial, and no tile has tokens of two trials.
    """
    # parallel loops capture tuples of arrays, but no tuples of tuples: records are made anew in the loop
    write, read, first, nonlinearity, second = end
    next_read, map_q, map_k, map_v = beginning
    (values, mask, _), (out, q, k, v) = ablation, result
    width, n = stream.shape
    has_end, d_heads, d_mlp, positions, next_positions = len(heads) > 0, len(q), len(first[3]), read[2], next_read[2]
    trials, tiles = len(mask), n_tiles(n // len(mask))
    jobs = n_jobs(trials * tiles, threads)
    d_read = width + max(len(positions), len(next_positions))
    whole_lines = n // trials * FLOAT_BYTES % CACHE_LINE == 0  # a trial begins a cache line
    stream_out = whole_lines and is_streamed(out)
    stream_heads = whole_lines and is_streamed(q) and is_streamed(k) and is_streamed(v)
    for job in prange(jobs):
        scratch = _empty_scratch(width, d_read, d_mlp, d_heads)
        maps = KernelMap(*write), KernelMap(*first), KernelMap(*second)
        own_end = KernelEnd(maps[0], KernelRead(*read), maps[1], nonlinearity, maps[2])
        own_beginning = KernelBeginning(KernelRead(*next_read), KernelMap(*map_q), KernelMap(*map_k), KernelMap(*map_v))
        for group in range(job * trials * tiles // jobs, (job + 1) * trials * tiles // jobs):
            begin, stop = token_range(group, n, trials, tiles)
            tokens, node = Tokens(begin, stop, mask[group // tiles]), 0
            for i in range(width):
                store(scratch.stream[i], 0, load_range(stream[i], begin, stop))
            if has_end:
                node = _end(heads, own_end, values, tokens, k_stream, scratch)
            if d_heads > 0:
                _begin(own_beginning, values, tokens, node, stream_heads, scratch, (q, k, v))
            for i in range(width):
                if not stream_out:
                    prefetch_write(out, i + DISTANCE, begin, stop)
                store_range(load(scratch.stream[i], 0), begin, stop, stream_out, out[i])
        fence()


@device_function
def _end(heads, end, values, tokens, k_stream, scratch):
    """Take the stream's tile through the end of a layer; returns the number of its nodes."""
    width, used = len(scratch.stream), tokens.end - tokens.begin
    _map_tile(end.write, heads, tokens.begin, tokens.end, IDENTITY, scratch, scratch.mapped)
    _add_kept(end.write.k, k_stream, values, tokens, 0, scratch)
    node = width
    _read(end.read, values, tokens, node, scratch)
    node += width + len(end.read.positions)
    _map_tile(end.first, scratch.read, 0, TOKENS, end.nonlinearity, scratch, scratch.hidden)
    _keep(scratch.hidden, end.first.k, used, values, tokens.mask, node, scratch)
    node += len(scratch.hidden)
    _map_tile(end.second, scratch.hidden, 0, TOKENS, IDENTITY, scratch, scratch.mapped)
    _add_kept(end.second.k, k_stream, values, tokens, node, scratch)
    return node + width


@device_function
def _begin(beginning, values, tokens, node, streaming, scratch, results):
    """Write q, k and v of a tile; `node` is the first node of what the attention reads."""
    q, k, v = results
    d_heads = len(q)
    _read(beginning.read, values, tokens, node, scratch)
    node += len(scratch.stream) + len(beginning.read.positions)
    _map_tile(beginning.q, scratch.read, 0, TOKENS, IDENTITY, scratch, scratch.mapped)
    _write_kept(beginning.q.k, values, tokens, node, streaming, scratch, q)
    _map_tile(beginning.k, scratch.read, 0, TOKENS, IDENTITY, scratch, scratch.mapped)
    _write_kept(beginning.k.k, values, tokens, node + d_heads, streaming, scratch, k)
    _map_tile(beginning.v, scratch.read, 0, TOKENS, IDENTITY, scratch, scratch.mapped)
    _write_kept(beginning.v.k, values, tokens, node + 2 * d_heads, streaming, scratch, v)


@device_function
def _read(read, values, tokens, node, scratch):
    """scratch.read = what a sublayer reads of the stream's tile: normed, with position channels, sparse, ablated."""
    width, d_read = len(scratch.stream), len(scratch.stream) + len(read.positions)
    total = broadcast(np.float32(0))
    for i in range(width):
        x = load(scratch.stream[i], 0)
        total += x * x
    store(scratch.rows[0], 0, total)
    scales_of_squares(scratch.rows[0], width, read.epsilon, scratch.rows[1])
    norm_tile(scratch.stream, read.gain, load(scratch.rows[1], 0), scratch.search, scratch.read)
    for i in range(len(read.positions)):
        store_for_search(
            scratch.read, width + i, load_range(read.positions[i], tokens.begin, tokens.end), scratch.search
        )
    _keep(scratch.read[:d_read], read.k, tokens.end - tokens.begin, values, tokens.mask, node, scratch)


@device_function
def _map_tile(matrix, x, begin, end, nonlinearity, scratch, tile):
    """The first rows of a tile = the nonlinearity of matrix · x[:, begin:end] + bias."""
    for o in range(len(matrix.bias)):
        store_for_search(tile, o, activate(nonlinearity, map_vector(matrix, o, x, begin, end)), scratch.search)


@inline_function
def _ablated(x, o, values, mask):
    """x, a vector of node o, moved towards its constant as the mask says."""
    return ablate_vector(values[o], x, mask[o]) if len(mask) > 0 and mask[o] != 1 else x


@device_function
def _keep(tile, k, used, values, mask, node, scratch):
    """Zero what AbsTopK drops of a tile, and ablate the rest; its nodes are those from `node` on."""
    if len(mask) == 0:
        keep_in_place(tile, k, used, scratch.search, scratch.short)
        return
    least = select_thresholds(tile, k, used, scratch.search, scratch.short)
    for i in range(len(tile)):
        store(tile[i], 0, _ablated(keep_reaching(load(tile[i], 0), least), node + i, values, mask))


@device_function
def _add_kept(k, k_stream, values, tokens, node, scratch):
    """Add what AbsTopK keeps of the mapped tile, ablated, to the stream's tile."""
    stream, used = scratch.stream, tokens.end - tokens.begin
    mapped = scratch.mapped[: len(stream)]
    least = select_thresholds(mapped, k, used, scratch.search, scratch.short)
    for i in range(len(stream)):
        delta = _ablated(keep_reaching(load(mapped[i], 0), least), node + i, values, tokens.mask)
        store(stream[i], 0, load(stream[i], 0) + delta)
    if k_stream < len(stream):
        for i in range(len(stream)):
            store_for_search(stream, i, load(stream[i], 0), scratch.search)
        keep_in_place(stream, k_stream, used, scratch.search, scratch.short)


@device_function
def _write_kept(k, values, tokens, node, streaming, scratch, out):
    """out[:, begin:end] = what AbsTopK keeps of the mapped tile, ablated."""
    begin, end = tokens.begin, tokens.end
    mapped = scratch.mapped[: len(out)]
    least = select_thresholds(mapped, k, end - begin, scratch.search, scratch.short)
    for i in range(len(out)):
        if not streaming:
            prefetch_write(out, min(i + DISTANCE, len(out) - 1), begin, end)
        x = _ablated(keep_reaching(load(mapped[i], 0), least), node + i, values, tokens.mask)
        store_range(x, begin, end, streaming, out[i])

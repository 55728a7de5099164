"""CPU kernels of the way back through causal attention: see `attention_kernels`.

What each query gave a position is computed again, for a stretch of queries and a tile of positions, and lies in the
caches until all gradients have it.
"""

import numpy as np
from numba import prange

from thinwire.engine.alike_kernels import LN_2, alike_backward, is_alike
from thinwire.engine.attention_kernels import add_channels, add_marked, constant_part, see, weigh
from thinwire.engine.block_kernels import ROWS, add_block, turn
from thinwire.engine.exponential_kernels import LOG2_E, power_of_two
from thinwire.engine.head_kernels import (
    clear_head,
    clear_rows,
    head_ahead,
    is_zero,
    place_columns,
    place_head,
    place_rows,
    round_up,
    take_head,
)
from thinwire.engine.jit import inlined, inner, summing
from thinwire.engine.stretches import fence, lowest, store_stretch, stretch, total, where_seen
from thinwire.engine.tiles import TOKENS, empty_tile, is_past, n_jobs, part, put
from thinwire.engine.vectors import VECTOR, everywhere

ZERO, ONE = np.float32(0), np.float32(1)


@summing
def attend_backward(q, k, v, sink, queries, scale, out, log_sums, grad, threads, d_q, d_k, d_v, d_sink):
    """Gradients of `attend`, from what it made and `grad` of the shape of q. d_sink is [head, batch], zeros."""
    heads, (_, d_head, batch, length) = k.shape[0] * k.shape[2], k.shape
    jobs = n_jobs(heads, threads)
    for job in prange(jobs):
        asked, towards, moved = place_rows(d_head), place_rows(d_head), place_rows(d_head)
        # zeros, since rows that nothing reads are multiplied as well: denormal numbers take a hundred times as long
        tiles = place_rows(TOKENS), place_rows(TOKENS), empty_tile(1)
        of_keys = place_head(k), place_columns(TOKENS, d_head), place_columns(length, d_head)
        of_values = place_head(v), place_columns(TOKENS, d_head), place_columns(length, d_head)
        past = is_past(d_q), is_past(d_k) and is_past(d_v)
        places = asked, towards, moved, tiles, of_keys, of_values, past
        for head in range(job * heads // jobs, (job + 1) * heads // jobs):
            h, b = head // batch, head % batch
            moves = not is_zero(grad, h, b)
            if moves and not is_alike(k, h, b):
                _head_backward(q, k, v, sink, queries, scale, out, log_sums, grad, d_q, d_k, d_v, d_sink, h, b, places)
                continue
            for made in (d_q, d_k, d_v):
                clear_head(made, h, b)
            if moves:
                alike_backward(q, k, v, sink, queries, scale, log_sums, grad, d_q, d_k, d_v, d_sink, h, b)
        fence()


@inner
def _head_backward(q, k, v, sink, queries, scale, out, log_sums, grad, d_q, d_k, d_v, d_sink, h, b, places):
    """`attend_backward` for one head of a sequence."""
    asked, towards, moved, (p, d_p, notes), (keys, q_rows, d_keys), (values, grad_rows, d_values), past = places
    past_queries, past_keys = past
    d_head, length = q.shape[1], k.shape[3]
    take_head(k, h, b, keys)
    take_head(v, h, b, values)
    clear_rows(d_keys)
    clear_rows(d_values)
    for begin in range(0, q.shape[3], TOKENS):
        end = min(q.shape[3], begin + TOKENS)
        fewest, tiles = see(queries, b, begin, end, length, notes[0])
        log_sum, mean = part(log_sums[h, b], begin, end), everywhere(ZERO)
        for d in range(d_head):
            for each in (q, grad, out):
                head_ahead(each, h, d, b)
            x = part(grad[h, d, b], begin, end)
            mean += x * part(out[h, d, b], begin, end)
            store_stretch(towards[d], 0, x)
            store_stretch(asked[d], 0, part(q[h, d, b], begin, end) * (scale * LOG2_E))
        turn(asked, ONE, q_rows)
        turn(towards, ONE, grad_rows)
        balance = everywhere(ZERO)
        if sink.size:
            share = power_of_two(everywhere(sink[h] * LOG2_E) - log_sum)
            balance = where_seen(share * mean, stretch(notes[0], 0), ZERO, ZERO)
            d_sink[h, b] -= total(balance)
        for d in range(d_head):
            store_stretch(moved[d], 0, keys[1][d] * balance)
        base, base_of_gradient = constant_part(keys, asked), constant_part(values, towards)
        for tile in range(tiles):
            weigh(keys, asked, base, log_sum, stretch(notes[0], 0), fewest, tile, p)
            _to_gradients(values, towards, base_of_gradient, mean, tile, p, d_p)
            add_marked(keys, tile, d_p, moved)
            first, last = tile * TOKENS, min((tile + 1) * TOKENS, length)
            _add_sums(p, first, last, fewest, notes[0], grad_rows[: end - begin], d_values)
            _add_sums(d_p, first, last, fewest, notes[0], q_rows[: end - begin], d_keys)
        for d in range(d_head):
            put(stretch(moved[d], 0) * scale, begin, end, past_queries, d_q[h, d, b])
    _put_turned(d_keys, LN_2, past_keys, moved, d_k[h, :, b])
    _put_turned(d_values, ONE, past_keys, moved, d_v[h, :, b])


@inlined
def _to_gradients(values, towards, base, mean, tile, p, d_p):
    """d_p[j] = gradients of scores with position j of a tile: those of weights, less their mean, times weights."""
    by_number = values[4]
    for n in range(by_number.shape[1]):
        places = by_number[tile, n]
        while places != 0:
            j = lowest(places)
            places &= places - np.uint64(1)
            made = add_channels(values, towards, tile * TOKENS + j, base) - mean
            store_stretch(d_p[j], 0, made * stretch(p[j], 0))


@inlined
def _add_sums(p, begin, end, fewest, seen, columns, out):
    """out[j] += Σ over a stretch of queries of its row of columns times p[j - begin], for positions of a tile."""
    for at in range(begin, end, ROWS):  # rows after the last go where nothing is read
        first = _first_that_sees(at, seen) if at >= fewest else 0
        for d in range(0, columns.shape[1], VECTOR):
            rows = p[at - begin : at - begin + ROWS, first:]
            add_block(rows, columns[first:], len(columns) - first, d, out[at : at + ROWS])


@inner
def _put_turned(x, factor, past, turned, out):
    """out [d_head, length] = factor times x, which has whole blocks of both, turned; `turned` is for a tile of that."""
    length = out.shape[1]
    for begin in range(0, length, TOKENS):
        end = min(length, begin + TOKENS)
        turn(x[begin : begin + round_up(end - begin, VECTOR)], factor, turned)
        for d in range(len(out)):
            put(stretch(turned[d], 0), begin, end, past, out[d])


@inner
def _first_that_sees(j, seen):
    """The first of a stretch of queries that sees position j; the last if none does."""
    first = 0
    while first < TOKENS - 1 and seen[first] <= j:
        first += 1
    return first

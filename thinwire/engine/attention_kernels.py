"""CPU kernels of causal attention on feature-major activations, one head of one sequence at a time.

A stretch of queries passes through all positions that it sees, tile by tile, a lane for each query: only what keys and
values are not zero at is multiplied. Scores become weights in registers, so what is subtracted from them is known
before: the score of the first position, which all queries see, until one is far above it. A head in which all queries
are zero, or all keys the same, attends to everything alike: its outputs are running means.
"""

import math

import numpy as np
from numba import prange

from thinwire.engine.alike_kernels import attend_alike, is_alike
from thinwire.engine.exponential_kernels import LOG2_E, power_of_two
from thinwire.engine.head_kernels import BITS, clear_head, head_ahead, is_zero, place_head, take_head
from thinwire.engine.jit import inlined, inner, summing
from thinwire.engine.stretches import any_above, fence, lowest, store_stretch, stretch, where_seen
from thinwire.engine.tiles import TOKENS, empty_tile, is_past, n_jobs, n_tiles, part, put
from thinwire.engine.vectors import everywhere, larger

FAR = np.float32(60)
"""Powers of two that a score may be above what is subtracted: sums of many weights times values are to be finite."""
ZERO, ONE, LOWEST = np.float32(0), np.float32(1), np.float32(-np.inf)


@summing
def attend(q, k, v, sink, queries, scale, threads, out, log_sums):
    """out [head, d_head, batch, n_queries] and log_sums [head, batch, n_queries], base-2 logs of softmax denominators.

    q has the shape of out, k and v are [head, d_head, batch, pos]. The query t of sequence b stands at `queries[b, t]`.
    `sink` [head] is added to each denominator as exp(sink), or is empty. Without any log_sums, heads that move nothing
    are left out.
    """
    batch, heads, d_head = k.shape[2], k.shape[0] * k.shape[2], k.shape[1]
    jobs = n_jobs(heads, threads)
    for job in prange(jobs):
        asked, means, p, notes = empty_tile(d_head), empty_tile(d_head), empty_tile(TOKENS), empty_tile(2)
        places = asked, means, p, notes, place_head(k), place_head(v), is_past(out)
        for head in range(job * heads // jobs, (job + 1) * heads // jobs):
            h, b = head // batch, head % batch
            if log_sums.size == 0 and is_zero(v, h, b):
                clear_head(out, h, b)
            elif is_alike(k, h, b) or is_zero(q, h, b):
                attend_alike(q, k, v, sink, queries, scale, out, log_sums, h, b)
            else:
                _attend_head(q, k, v, sink, queries, scale, out, log_sums, h, b, places)
        fence()


@inner
def _attend_head(q, k, v, sink, queries, scale, out, log_sums, h, b, places):
    """`attend` for one head of a sequence."""
    asked, means, p, notes, keys, values, past = places
    take_head(k, h, b, keys)
    take_head(v, h, b, values)
    for begin in range(0, q.shape[3], TOKENS):
        end = min(q.shape[3], begin + TOKENS)
        fewest, tiles = see(queries, b, begin, end, k.shape[3], notes[0])
        seen = stretch(notes[0], 0)
        for d in range(len(asked)):
            head_ahead(q, h, d, b)
            store_stretch(asked[d], 0, part(q[h, d, b], begin, end) * (scale * LOG2_E))
            store_stretch(means[d], 0, everywhere(ZERO))
        base = constant_part(keys, asked)
        shift = add_channels(keys, asked, 0, base)
        shift = larger(shift, sink[h] * LOG2_E) if sink.size else shift
        sums = power_of_two(everywhere(sink[h] * LOG2_E) - shift) if sink.size else everywhere(ZERO)
        shares = everywhere(ZERO)
        for tile in range(tiles):
            more, top = weigh(keys, asked, base, shift, seen, fewest, tile, p)
            if any_above(top - shift, FAR):  # done again, with more subtracted in those lanes
                higher = larger(shift, top - FAR)
                lower = power_of_two(shift - higher)
                shift, shares, sums = higher, shares * lower, sums * lower
                for d in range(len(means)):
                    store_stretch(means[d], 0, stretch(means[d], 0) * lower)
                more, _ = weigh(keys, asked, base, shift, seen, fewest, tile, p)
            shares += more
            add_marked(values, tile, p, means)
        sums = sums + shares
        normal = everywhere(ONE) / sums
        shares = shares * normal
        for d in range(len(means)):
            put(stretch(means[d], 0) * normal + values[1][d] * shares, begin, end, past, out[h, d, b])
        if log_sums.size:
            store_stretch(notes[0], 0, sums)
            store_stretch(notes[1], 0, shift)
            for t in range(begin, end):
                log_sums[h, b, t] = notes[1, t - begin] + np.float32(math.log(notes[0, t - begin])) * LOG2_E


@inlined
def constant_part(head, rows):
    """What channels that are the same at all positions of a head add to products with rows."""
    made = everywhere(ZERO)
    for d in range(len(head[1])):
        if head[1][d] != 0:
            made += head[1][d] * stretch(rows[d], 0)
    return made


@inlined
def add_channels(head, rows, j, made):
    """made + Σ over channels of position j of a head times the row, a stretch, but for constants."""
    numbers, by_position = head[0], head[3]
    for word in range(len(by_position)):
        marks = np.uint64(by_position[word, j])
        while marks != 0:
            d = BITS * word + lowest(marks)
            marks &= marks - np.uint64(1)
            made += numbers[d, j] * stretch(rows[d], 0)
    return made


@inlined
def weigh(keys, asked, base, shift, seen, fewest, tile, p):
    """p[j] = 2^(score - shift) of position j of a tile, 0 where not seen; returns sums and the largest scores."""
    by_number, begin = keys[4], tile * TOKENS
    top, sums = everywhere(LOWEST), everywhere(ZERO)
    for n in range(by_number.shape[1]):
        places = by_number[tile, n]
        while places != 0:
            j = lowest(places)
            places &= places - np.uint64(1)
            score = add_channels(keys, asked, begin + j, base)
            if begin >= fewest:
                score = where_seen(score, seen, np.float32(begin + j), LOWEST)
            top = larger(top, score)
            weight = power_of_two(score - shift)
            sums += weight
            store_stretch(p[j], 0, weight)
    return sums, top


@inner
def see(queries, b, begin, end, length, seen):
    """How many positions each query of a stretch sees, none after the last query.

    Returns how many all see, in whole tiles, and how many tiles those are of that any sees.
    """
    fewest, most = length, 0
    for i in range(TOKENS):
        n = min(length, queries[b, begin + i] + 1) if begin + i < end else 0
        seen[i] = np.float32(n)
        most = max(most, n)
        fewest = min(fewest, n) if begin + i < end else fewest
    return fewest // TOKENS * TOKENS, n_tiles(most)


@inlined
def add_marked(head, tile, p, out):
    """out[d] += Σ over positions of a tile where channel d is not zero of the number there times p[position]."""
    numbers, _, by_channel, _, _ = head
    for d in range(len(by_channel)):
        marks = by_channel[d, tile]
        if marks != 0:
            made = stretch(out[d], 0)
            while marks != 0:
                j = lowest(marks)
                marks &= marks - np.uint64(1)
                made += numbers[d, tile * TOKENS + j] * stretch(p[j], 0)
            store_stretch(out[d], 0, made)

"""The kernel that runs a compact circuit: a few numbers a position and sublayer, prompt after prompt.

At each site some channels vary: those that the circuit's wires reach. All others are constants, and AbsTopK compares
the varying ones with them. A channel that `ahead` varying ones beat is among the k largest exactly if at most
k - 1 - ahead constants beat it too. So all that is stored of the constants is which one has that rank, the *bar* to
pass: there are as many bars as varying channels, and no constant is looked at again.

`thinwire.circuit.compact.program` writes the arrays that are read here.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange

from thinwire.engine.jit import kernel
from thinwire.engine.simd.nonlinearities import activate_row

WHOLE, ASKED, LAST = 0, 1, 2
"""Where a step runs: at all positions; at all, but answering the last one's query alone; at the last one alone."""
QUERY, KEY, VALUE, OUT = range(4)
"""The maps of a step by their place. An MLP has its neurons at QUERY, and none at KEY and VALUE."""
inlined: Any = njit(inline="always")
"""Decorates the parts of the kernel. A call that is not inlined would copy the handles of all arrays of a program."""


class Program(NamedTuple):
    """A circuit as flat arrays: what depends on no token.

    A *step* is a sublayer that keeps nodes. Each *reads* the residual stream; the last read, which has no step, is that
    of the final norm. Step s then has the *maps* 4·s … 4·s + 3, products with a matrix: of a source row with each
    varying channel of a site, one *row* of the map. `x_starts` has where the x of each begin, and where the last ends.
    """

    attention: np.ndarray  # [step] whether it is an attention sublayer
    reach: np.ndarray  # [step] WHOLE, ASKED or LAST
    read_starts: np.ndarray  # [read + 1] rows of a read: written channels of the stream, then others, then positions
    read_streams: np.ndarray  # [read] where its position channels begin
    read_nodes: np.ndarray  # [read, 2] first node and the one after the last
    read_selects: np.ndarray  # [read] whether AbsTopK acts
    read_channel: np.ndarray  # [read row]
    gain: np.ndarray  # [read row] of the norm
    map_starts: np.ndarray  # [map + 1]
    map_nodes: np.ndarray  # [map, 2]
    map_selects: np.ndarray  # [map]
    map_nonlinearity: np.ndarray  # [map] IDENTITY, RELU or GELU
    channel: np.ndarray  # [row]
    base: np.ndarray  # [table, row] bias and all constants; table t is for position t where there is more than one
    bar: np.ndarray  # [table, row] magnitude of the constant to beat with as many varying ones ahead as rows before
    bar_channel: np.ndarray  # [table, row] and its channel, since ties go to the lowest
    source_starts: np.ndarray  # [map + 1]
    source: np.ndarray  # [source] a node, or for the OUT of attention a column of what heads mixed
    wire_starts: np.ndarray  # [source + 1]
    wire_row: np.ndarray  # [wire] of the map, counted from its first
    wire_weight: np.ndarray  # [wire]
    node_row: np.ndarray  # [node] row of its map or read, counted from there
    node_written: np.ndarray  # [node] the written channel that a node of a resid_delta adds to, or -1
    head_starts: np.ndarray  # [step + 1]
    head_values: np.ndarray  # [head, 2] its first kept v and the one after the last
    head_mixed: np.ndarray  # [head] column of the first of them when mixed
    head_mass: np.ndarray  # [head] column of the attention that the sink leaves, or -1
    head_sink: np.ndarray  # [head] minus infinity without one
    head_score: np.ndarray  # [head] what held channels add to every score
    head_by_query: np.ndarray  # [head] whether scores differ between queries
    pair_starts: np.ndarray  # [head + 1] the channels of q and k that are not both held
    pair_nodes: np.ndarray  # [pair, 2] q and k, -1 where held
    pair_held: np.ndarray  # [pair, 2] what q is held at, or multiplied by; what k is held at
    n_written: int
    n_mixed: int
    most_rows: int
    d_model: int
    epsilon: float


class Tables(NamedTuple):
    """What each read finds of a token where the circuit has written nothing; a *slot* is a token, at a position."""

    base: np.ndarray  # [slot, read row] the stream itself on written channels, times the gain on others
    bar: np.ndarray  # [slot, read row] see `Program.bar`; before the norm's scale
    bar_channel: np.ndarray  # [slot, read row]
    square: np.ndarray  # [slot, read] sum of squares of the stream but for written channels


@kernel
def run(p, t, slots, last, scales, everywhere, kept, written, scale):
    """Run prompts: slots int32 [prompt, pos], of which those up to `last` [prompt] count.

    `scales` [read, prompt, pos] are those of the norms, or empty where each has its own. Fills `written` [prompt,
    channel] with what the circuit has added to the stream at the last position, and `scale` [prompt] with that of the
    last norm there. With `everywhere` all nodes run at all positions and fill `kept` [prompt, pos, node], else empty.
    """
    for row in prange(slots.shape[0]):
        length = last[row] + 1
        values = kept[row] if everywhere else np.empty((length, p.node_row.size), np.float32)
        stream = np.zeros((length, p.n_written), np.float32)
        mixed = np.empty((length, p.n_mixed), np.float32)
        level, size = np.empty(p.most_rows, np.float32), np.empty(p.most_rows, np.float32)
        weights = np.empty(length, np.float32)
        n_steps = p.attention.size
        for step in range(n_steps):
            reach = WHOLE if everywhere else p.reach[step]
            first = length - 1 if reach == LAST else 0
            asking = 0 if reach == WHOLE else length - 1
            _read(p, t, step, first, length, slots[row], scales, row, stream, values, level, size)
            for place in range(4):
                start = first if place in (KEY, VALUE) else asking
                if place == OUT:
                    for head in range(p.head_starts[step], p.head_starts[step + 1]):
                        _mix(p, head, start, length, values, mixed, weights)
                source = mixed if place == OUT and p.attention[step] else values
                _map(p, 4 * step + place, start, length, source, values, level, size)
            for node in range(p.map_nodes[4 * step + OUT, 0], p.map_nodes[4 * step + OUT, 1]):
                for at in range(asking, length):
                    stream[at, p.node_written[node]] += values[at, node]
        at = length - 1
        scale[row] = _scale(p, t, n_steps, at, slots[row], scales, row, stream)
        for channel in range(p.n_written):
            written[row, channel] = stream[at, channel]


@inlined
def _scale(p, t, read, at, slots, scales, row, stream):
    """What a norm multiplies the stream by at one position."""
    if scales.size:
        return scales[read, row, at]
    slot = slots[at]
    square = t.square[slot, read]
    for r in range(p.n_written):
        x = t.base[slot, p.read_starts[read] + r] + stream[at, r]
        square += x * x
    return np.float32(1 / math.sqrt(square / p.d_model + p.epsilon))


@inlined
def _read(p, t, read, first, length, slots, scales, row, stream, values, level, size):
    """The kept act_in nodes of a step from `first` on. AbsTopK ranks the same before the norm's scale as after it."""
    first_node, end_node = p.read_nodes[read, 0], p.read_nodes[read, 1]
    if first_node == end_node:
        return
    start, end, n_written = p.read_starts[read], p.read_starts[read + 1], p.n_written
    gain, channel, level, size = p.gain[start:end], p.read_channel[start:end], level[: end - start], size[: end - start]
    for at in range(first, length):
        slot = slots[at]
        base, bar, bar_channel = t.base[slot, start:end], t.bar[slot, start:end], t.bar_channel[slot, start:end]
        scale = _scale(p, t, read, at, slots, scales, row, stream)
        for r in range(n_written):
            level[r] = (base[r] + stream[at, r]) * gain[r]
        for r in range(n_written, level.size):
            level[r] = base[r]
        for r in range(p.read_streams[read] - start, level.size):  # position channels have a norm of their own
            level[r] /= scale
        for r in range(level.size):
            size[r] = abs(level[r])
        for node in range(first_node, end_node):
            r = p.node_row[node]
            stays = not p.read_selects[read] or _survives(size, r, channel, bar, bar_channel)
            values[at, node] = level[r] * scale if stays else np.float32(0)


@inlined
def _survives(size, row, channel, bar, bar_channel):
    """Whether AbsTopK keeps a row, from the magnitudes of all rows and the bars that constants set."""
    mine, place, ahead = size[row], channel[row], np.int32(0)
    for other in range(size.size):
        ahead += np.int32((size[other] > mine) | ((size[other] == mine) & (channel[other] < place)))
    return bar[ahead] < mine or (bar[ahead] == mine and place < bar_channel[ahead])


@inlined
def _map(p, m, first, length, source, values, level, size):
    """The kept nodes of a site from position `first` on, from the rows of a source."""
    first_node, end_node = p.map_nodes[m, 0], p.map_nodes[m, 1]
    if first_node == end_node:
        return
    start, end = p.map_starts[m], p.map_starts[m + 1]
    channel, level, size = p.channel[start:end], level[: end - start], size[: end - start]
    for at in range(first, length):
        table = min(at, p.base.shape[0] - 1)
        base, bar, bar_channel = p.base[table, start:end], p.bar[table, start:end], p.bar_channel[table, start:end]
        for r in range(level.size):
            level[r] = base[r]
        for column in range(p.source_starts[m], p.source_starts[m + 1]):
            x = source[at, p.source[column]]
            if x != 0:  # AbsTopK has zeroed most
                for wire in range(p.wire_starts[column], p.wire_starts[column + 1]):
                    level[p.wire_row[wire]] += x * p.wire_weight[wire]
        activate_row(p.map_nonlinearity[m], level)
        for r in range(level.size):
            size[r] = abs(level[r])
        for node in range(first_node, end_node):
            r = p.node_row[node]
            stays = not p.map_selects[m] or _survives(size, r, channel, bar, bar_channel)
            values[at, node] = level[r] if stays else np.float32(0)


@inlined
def _mix(p, head, asking, length, values, mixed, weights):
    """What a head's queries from `asking` on get of its kept v, and what its sink leaves."""
    if p.head_by_query[head]:
        for at in range(asking, length):
            _look_back(p, head, at, values, mixed, weights)
    else:
        _run_on(p, head, asking, length, values, mixed)


@inlined
def _score(p, head, query, key, values):
    total = p.head_score[head]
    for pair in range(p.pair_starts[head], p.pair_starts[head + 1]):
        q, k = p.pair_nodes[pair, 0], p.pair_nodes[pair, 1]
        asked = p.pair_held[pair, 0] if q < 0 else values[query, q] * p.pair_held[pair, 0]
        total += asked * (p.pair_held[pair, 1] if k < 0 else values[key, k])
    return total


@inlined
def _look_back(p, head, at, values, mixed, weights):
    """One query, over all keys before it."""
    highest = p.head_sink[head]
    for key in range(at + 1):
        weights[key] = _score(p, head, at, key, values)
        highest = max(highest, weights[key])
    total = np.float32(0)
    for key in range(at + 1):
        weights[key] = math.exp(weights[key] - highest)
        total += weights[key]
    whole = total + math.exp(p.head_sink[head] - highest)
    for v in range(p.head_values[head, 0], p.head_values[head, 1]):
        x = np.float32(0)
        for key in range(at + 1):
            x += weights[key] * values[key, v]
        mixed[at, p.head_mixed[head] + v - p.head_values[head, 0]] = x / whole
    if p.head_mass[head] >= 0:
        mixed[at, p.head_mass[head]] = total / whole


@inlined
def _run_on(p, head, asking, length, values, mixed):
    """All queries at once, where scores do not depend on them, in sums that run on from key to key."""
    first_v, n_v, column = p.head_values[head, 0], p.head_values[head, 1] - p.head_values[head, 0], p.head_mixed[head]
    sums = np.zeros(n_v, np.float32)
    total, highest = np.float32(0), np.float32(-np.inf)
    for at in range(length):
        score = _score(p, head, at, at, values)
        if score > highest:
            shrunk = math.exp(highest - score)
            highest = score
            total *= shrunk
            for v in range(n_v):
                sums[v] *= shrunk
        weight = math.exp(score - highest)
        total += weight
        for v in range(n_v):
            sums[v] += weight * values[at, first_v + v]
        if at >= asking:
            whole = total + math.exp(p.head_sink[head] - highest)
            for v in range(n_v):
                mixed[at, column + v] = sums[v] / whole
            if p.head_mass[head] >= 0:
                mixed[at, p.head_mass[head]] = total / whole

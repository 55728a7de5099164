"""The kernel that runs a compact circuit: a few values per position and sublayer, prompt after prompt.

At each site some channels vary: those that the circuit's edges reach. All others are constants, and AbsTopK compares
the varying ones with them. A channel that `ahead` varying ones beat is among the k largest exactly if at most
k - 1 - ahead constants beat it too. So only the constant of that rank is stored, the *bar* to pass: there are as many
bars as varying channels. `thinwire.compact.program` writes the arrays that are read here.

All that is compiled is in this file or in `thinwire.engine`: a change of either makes numba compile it again.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange

from thinwire.engine.jit import kernel, no_reassociation
from thinwire.engine.simd.nonlinearities import activate_row

ALL_POSITIONS, LAST_QUERY, LAST_POSITION = 0, 1, 2
"""Where a step runs: at all positions; its keys at all positions and its query at the last one; at the last one."""
QUERY, KEY, VALUE, OUT = range(4)
"""The maps of a step by their index. An MLP has its neurons at QUERY, and none at KEY and VALUE."""
inline_function: Any = njit(inline="always")
"""Decorates the parts of the kernel. A call that is not inlined would copy the handles of all arrays of a program."""


class Program(NamedTuple):
    """A circuit as flat arrays, without what depends on a token.

    A *step* is a sublayer that keeps nodes. Each step *reads* the residual stream; the last read, which has no step, is
    that of the final norm. Step s has the *maps* 4·s … 4·s + 3, sparse products of a source row with each varying
    channel of a site; such a channel is a *row* of the map. An array `x_offsets` [n + 1] says where the x of each
    item begin, and where those of the last end.
    """

    attention: np.ndarray  # bool [step], whether it is an attention sublayer
    reach: np.ndarray  # [step] ALL_POSITIONS, LAST_QUERY or LAST_POSITION
    read_offsets: np.ndarray  # [read + 1] rows of a read: written channels of the stream, then others, then positions
    read_positions: np.ndarray  # [read] row at which its position channels begin
    read_nodes: np.ndarray  # [read, 2] first node and the one after the last
    read_selects: np.ndarray  # bool [read], whether AbsTopK acts
    read_channel: np.ndarray  # [read row]
    gain: np.ndarray  # float32 [read row], of the norm
    map_offsets: np.ndarray  # [map + 1]
    map_nodes: np.ndarray  # [map, 2] first node and the one after the last
    map_selects: np.ndarray  # bool [map], whether AbsTopK acts
    map_nonlinearity: np.ndarray  # [map] IDENTITY, RELU or GELU
    channel: np.ndarray  # [row]
    base: np.ndarray  # float32 [table, row], bias and all constants; table t is for position t where there are several
    bar: np.ndarray  # float32 [table, row], magnitude of the constant to beat with `row` varying channels ahead
    bar_channel: np.ndarray  # [table, row], and its channel, since ties go to the lowest
    source_offsets: np.ndarray  # [map + 1]
    source: np.ndarray  # [source] a node, or for the OUT of attention a column of the mixed values
    edge_indptr: np.ndarray  # [source + 1] edges by source, as in compressed sparse columns
    edge_indices: np.ndarray  # [edge] row of the map, counted from its first
    edge_weight: np.ndarray  # float32 [edge]
    node_row: np.ndarray  # [node] row of its map or read, counted from the first there
    node_written: np.ndarray  # [node] the written channel that a node of a resid_delta adds to, or -1
    head_offsets: np.ndarray  # [step + 1]
    head_values: np.ndarray  # [head, 2] its first kept v and the one after the last
    head_mixed: np.ndarray  # [head] column of the first of them when mixed
    head_mass: np.ndarray  # [head] column of the attention that the sink leaves, or -1
    head_sink: np.ndarray  # float32 [head], minus infinity without one
    head_score: np.ndarray  # float32 [head], what constant channels add to every score
    head_by_query: np.ndarray  # bool [head], whether scores differ between queries
    pair_offsets: np.ndarray  # [head + 1] the channels of q and k that are not both constant
    pair_nodes: np.ndarray  # [pair, 2] nodes of q and k, -1 where constant
    pair_constants: np.ndarray  # float32 [pair, 2], the constant q, or a factor on q; the constant k
    n_written: int
    n_mixed: int
    most_rows: int
    d_model: int
    epsilon: float


class Tables(NamedTuple):
    """What each norm reads of a token where the circuit has written nothing; a *slot* is a token, at a position."""

    base: np.ndarray  # float32 [slot, read row], the stream itself on written channels, times the gain on others
    bar: np.ndarray  # float32 [slot, read row], see `Program.bar`; before the norm's scale
    bar_channel: np.ndarray  # int32 [slot, read row]
    square: np.ndarray  # float32 [slot, read], sum of squares of the stream without its written channels


class Prompts(NamedTuple):
    """What a call runs on."""

    slots: np.ndarray  # int32 [prompt, pos]
    last: np.ndarray  # int64 [prompt], the last position that counts
    scales: np.ndarray  # float32 [read, prompt, pos], of the norms; empty where each computes its own


class Results(NamedTuple):
    """What a call fills."""

    kept: np.ndarray  # float32 [prompt, pos, node], all nodes at all positions; empty where only the end is wanted
    written: np.ndarray  # float32 [prompt, channel], what the circuit has added to the stream at the last position
    scale: np.ndarray  # float32 [prompt], of the last norm at the last position


class Work(NamedTuple):
    """Buffers for a prompt of some length or less, or for the longest of several."""

    stream: np.ndarray  # float32 [pos, written channel], what the circuit has added to the stream so far
    values: np.ndarray  # float32 [pos, node]
    mixed: np.ndarray  # float32 [pos, mixed column]
    level: np.ndarray  # float32 [row], the values of a read or map
    size: np.ndarray  # float32 [row], their magnitudes
    weights: np.ndarray  # float32 [pos], of one query
    sums: np.ndarray  # float32 [mixed column], of one head


@kernel
def run(p, t, prompts, everywhere, results, n_parts):
    """Run a `Program` p with `Tables` t on `Prompts` in `n_parts` parallel parts, and fill `Results`.

    With `everywhere` all nodes run at all positions, and `results.kept` is filled.
    """
    n_prompts, length = prompts.slots.shape
    for part in prange(n_parts):
        stream, values = np.empty((length, p.n_written), np.float32), np.empty((length, p.node_row.size), np.float32)
        mixed, sums = np.empty((length, p.n_mixed), np.float32), np.empty(p.n_mixed, np.float32)
        level, size = np.empty(p.most_rows, np.float32), np.empty(p.most_rows, np.float32)
        work = Work(stream, values, mixed, level, size, np.empty(length, np.float32), sums)
        begin, end = part * n_prompts // n_parts, (part + 1) * n_prompts // n_parts
        # a call, since numba drops writes to the arrays of a NamedTuple from a loop that it makes parallel
        _run_part(p, t, prompts, begin, end, everywhere, results, work)


@no_reassociation
def _run_part(p, t, prompts, begin, end, everywhere, results, work):
    """Run the prompts from `begin` to before `end`."""
    for row in range(begin, end):
        length, n_steps = prompts.last[row] + 1, p.attention.size
        values = results.kept[row] if everywhere else work.values
        work = Work(work.stream, values, work.mixed, work.level, work.size, work.weights, work.sums)
        work.stream[:length] = 0
        for step in range(n_steps):
            reach = ALL_POSITIONS if everywhere else p.reach[step]
            first = length - 1 if reach == LAST_POSITION else 0
            first_query = 0 if reach == ALL_POSITIONS else length - 1
            _read(p, t, prompts, row, step, first, work)
            for kind in range(4):
                start = first if kind in (KEY, VALUE) else first_query
                if kind == OUT:
                    for head in range(p.head_offsets[step], p.head_offsets[step + 1]):
                        if p.head_by_query[head]:
                            for at in range(start, length):
                                _attend(p, head, at, work)
                        else:
                            _attend_uniform(p, head, start, length, work)
                source = work.mixed if kind == OUT and p.attention[step] else work.values
                _map(p, 4 * step + kind, start, length, source, work)
            for node in range(p.map_nodes[4 * step + OUT, 0], p.map_nodes[4 * step + OUT, 1]):
                for at in range(first_query, length):
                    work.stream[at, p.node_written[node]] += work.values[at, node]
        results.scale[row] = _scale(p, t, prompts, row, n_steps, length - 1, work.stream)
        for channel in range(p.n_written):
            results.written[row, channel] = work.stream[length - 1, channel]


@inline_function
def _scale(p, t, prompts, row, read, at, stream):
    """What a norm multiplies the stream by at one position."""
    if prompts.scales.size:
        return prompts.scales[read, row, at]
    slot = prompts.slots[row, at]
    square = t.square[slot, read]
    for r in range(p.n_written):
        x = t.base[slot, p.read_offsets[read] + r] + stream[at, r]
        square += x * x
    return np.float32(1 / math.sqrt(square / p.d_model + p.epsilon))


@inline_function
def _read(p, t, prompts, row, read, first, work):
    """The kept act_in nodes of a step from `first` on. AbsTopK ranks the same before the norm's scale as after it."""
    first_node, end_node = p.read_nodes[read, 0], p.read_nodes[read, 1]
    if first_node == end_node:
        return
    start, end, n_written = p.read_offsets[read], p.read_offsets[read + 1], p.n_written
    gain, channel = p.gain[start:end], p.read_channel[start:end]
    level, size = work.level[: end - start], work.size[: end - start]
    for at in range(first, prompts.last[row] + 1):
        slot = prompts.slots[row, at]
        base, bar, bar_channel = t.base[slot, start:end], t.bar[slot, start:end], t.bar_channel[slot, start:end]
        scale = _scale(p, t, prompts, row, read, at, work.stream)
        for r in range(n_written):
            level[r] = (base[r] + work.stream[at, r]) * gain[r]
        for r in range(n_written, level.size):
            level[r] = base[r]
        for r in range(p.read_positions[read] - start, level.size):  # position channels have a norm of their own
            level[r] /= scale
        for r in range(level.size):
            size[r] = abs(level[r])
        for node in range(first_node, end_node):
            r = p.node_row[node]
            stays = not p.read_selects[read] or _survives(size, r, channel, bar, bar_channel)
            work.values[at, node] = level[r] * scale if stays else np.float32(0)


@inline_function
def _survives(size, row, channel, bar, bar_channel):
    """Whether AbsTopK keeps a row, from the magnitudes of all rows and the bars that constants set."""
    own, own_channel, ahead = size[row], channel[row], np.int32(0)
    for other in range(size.size):
        ahead += np.int32((size[other] > own) | ((size[other] == own) & (channel[other] < own_channel)))
    return bar[ahead] < own or (bar[ahead] == own and own_channel < bar_channel[ahead])


@inline_function
def _map(p, m, first, length, source, work):
    """The kept nodes of a site from position `first` on, from the rows of a source [pos, column]."""
    first_node, end_node = p.map_nodes[m, 0], p.map_nodes[m, 1]
    if first_node == end_node:
        return
    start, end = p.map_offsets[m], p.map_offsets[m + 1]
    channel, level, size = p.channel[start:end], work.level[: end - start], work.size[: end - start]
    for at in range(first, length):
        table = min(at, p.base.shape[0] - 1)
        base, bar, bar_channel = p.base[table, start:end], p.bar[table, start:end], p.bar_channel[table, start:end]
        for r in range(level.size):
            level[r] = base[r]
        for column in range(p.source_offsets[m], p.source_offsets[m + 1]):
            x = source[at, p.source[column]]
            if x != 0:  # AbsTopK has zeroed most
                for edge in range(p.edge_indptr[column], p.edge_indptr[column + 1]):
                    level[p.edge_indices[edge]] += x * p.edge_weight[edge]
        activate_row(p.map_nonlinearity[m], level)
        for r in range(level.size):
            size[r] = abs(level[r])
        for node in range(first_node, end_node):
            r = p.node_row[node]
            stays = not p.map_selects[m] or _survives(size, r, channel, bar, bar_channel)
            work.values[at, node] = level[r] if stays else np.float32(0)


@inline_function
def _score(p, head, query, key, values):
    total = p.head_score[head]
    for pair in range(p.pair_offsets[head], p.pair_offsets[head + 1]):
        q, k = p.pair_nodes[pair, 0], p.pair_nodes[pair, 1]
        factor = p.pair_constants[pair, 0] if q < 0 else values[query, q] * p.pair_constants[pair, 0]
        total += factor * (p.pair_constants[pair, 1] if k < 0 else values[key, k])
    return total


@inline_function
def _attend(p, head, at, work):
    """The kept v of a head mixed for one query over all keys up to it, and the attention that the sink leaves."""
    values, mixed, weights = work.values, work.mixed, work.weights
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


@inline_function
def _attend_uniform(p, head, first_query, length, work):
    """The same for all queries from `first_query` on, where scores depend on the key alone: running sums."""
    values, mixed, sums = work.values, work.mixed, work.sums
    first_v, n_v, column = p.head_values[head, 0], p.head_values[head, 1] - p.head_values[head, 0], p.head_mixed[head]
    sums[:n_v] = 0
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
        if at >= first_query:
            whole = total + math.exp(p.head_sink[head] - highest)
            for v in range(n_v):
                mixed[at, column + v] = sums[v] / whole
            if p.head_mass[head] >= 0:
                mixed[at, p.head_mass[head]] = total / whole

"""The parts of a circuit as the flat arrays that the kernel runs."""

from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np
import torch

from thinwire.compact.kernel import ALL_POSITIONS, LAST_POSITION, LAST_QUERY, OUT, Program
from thinwire.compact.parts import Compiler, Head, Map, Read
from thinwire.engine.sites.operator import CODES


class Flattened(NamedTuple):
    """A circuit in the form that the kernel runs."""

    reads: list[Read]
    """What each norm reads; the last one reads for the unembedding."""
    program: Program


def flatten(compiler: Compiler) -> Flattened:
    """The program of a circuit, and what each of its norms reads."""
    reads = [compiler.read(point) for point in (*compiler.points, 2 * compiler.config.n_layers)]
    heads = [compiler.heads(point) for point in compiler.points]
    maps = [found for point, own in zip(compiler.points, heads, strict=True) for found in compiler.maps(point, own)]
    mixing = [[head for head in own if head.massed or head.values.first < head.values.end] for own in heads]
    last_mixing = max((step for step, own in enumerate(mixing) if own), default=-1)
    before, after = [ALL_POSITIONS] * last_mixing, [LAST_POSITION] * (len(compiler.points) - last_mixing - 1)
    reach = before + [LAST_QUERY] * (last_mixing >= 0) + after
    fields = _reads(reads) | _maps(maps) | _nodes(compiler, reads, maps) | _heads(mixing)
    program = Program(
        attention=np.array([point % 2 == 0 for point in compiler.points], bool),
        reach=_integers(reach),
        n_written=len(compiler.written),
        n_mixed=max((sum(len(h.values) + h.massed for h in own) for own in mixing), default=0),
        most_rows=max(np.diff(fields["read_offsets"]).max(), np.diff(fields["map_offsets"], prepend=0).max()),
        d_model=compiler.config.d_model,
        epsilon=compiler.cut.norm.eps,
        **fields,
    )
    return Flattened(reads, program)


def _integers(values: list) -> np.ndarray:
    return np.array(values, np.int64)


def _offsets(sizes: list[int]) -> np.ndarray:
    return _integers([0, *accumulate(sizes)])


def _reads(reads: list[Read]) -> dict[str, np.ndarray]:
    offsets = _offsets([len(read.channels) for read in reads])
    n_positions = [read.positions.shape[1] for read in reads]
    gains = [read.gain[channel] if channel < len(read.gain) else 1.0 for read in reads for channel in read.channels]
    return {
        "read_offsets": offsets,
        "read_positions": offsets[1:] - n_positions,
        "read_nodes": _integers([(read.nodes.first, read.nodes.end) for read in reads]),
        "read_selects": np.array([read.k is not None for read in reads]),
        "read_channel": np.array([*chain(*(read.channels for read in reads))], np.int32),
        "gain": np.array(gains, np.float32),
    }


def _maps(maps: list[Map]) -> dict[str, np.ndarray]:
    tables = max((len(found.base) for found in maps), default=1)
    offsets = _offsets([len(found.channels) for found in maps])
    base = np.zeros((tables, offsets[-1]), np.float32)
    bar, bar_channel = np.zeros_like(base), np.zeros(base.shape, np.int32)
    n_edges: list[int] = []
    rows: list[int] = []
    weights: list[float] = []
    for start, end, found in zip(offsets, offsets[1:], maps, strict=False):
        base[:, start:end] = found.base
        if found.bars is not None:
            bar[:, start:end], bar_channel[:, start:end] = found.bars.magnitude, found.bars.channel
        column, row = found.weights.T.nonzero(as_tuple=True)
        n_edges += torch.bincount(column, minlength=len(found.sources)).tolist()
        rows += row.tolist()
        weights += found.weights[row, column].tolist()
    return {
        "map_offsets": offsets,
        "map_nodes": _integers([(found.nodes.first, found.nodes.end) for found in maps]).reshape(-1, 2),
        "map_selects": np.array([found.bars is not None for found in maps], bool),
        "map_nonlinearity": _integers([CODES[found.nonlinearity] for found in maps]),
        "channel": np.array([*chain(*(found.channels.tolist() for found in maps))], np.int32),
        "base": base,
        "bar": bar,
        "bar_channel": bar_channel,
        "source_offsets": _offsets([len(found.sources) for found in maps]),
        "source": _integers([*chain(*(found.sources for found in maps))]),
        "edge_indptr": _offsets(n_edges),
        "edge_indices": _integers(rows),
        "edge_weight": np.array(weights, np.float32),
    }


def _nodes(compiler: Compiler, reads: list[Read], maps: list[Map]) -> dict[str, np.ndarray]:
    row, written = np.zeros(len(compiler.nodes), np.int64), np.full(len(compiler.nodes), -1)
    parts = [(read.nodes, read.channels) for read in reads]
    parts += [(found.nodes, found.channels.tolist()) for found in maps]
    for span, channels in parts:
        for index in span.range:
            row[index] = channels.index(compiler.nodes[index].index)
    for found in maps[OUT :: OUT + 1]:
        for index in found.nodes.range:
            written[index] = compiler.written.index(compiler.nodes[index].index)
    return {"node_row": row, "node_written": written}


def _heads(mixing: list[list[Head]]) -> dict[str, np.ndarray]:
    flat = [*chain(*mixing)]
    columns, masses = [], []
    for own in mixing:
        mass = sum(len(head.values) for head in own)
        first = min((head.values.first for head in own), default=0)
        for head in own:
            columns.append(head.values.first - first)
            masses.append(mass if head.massed else -1)
            mass += head.massed
    pairs = [pair for head in flat for pair in head.pairs]
    return {
        "head_offsets": _offsets([len(own) for own in mixing]),
        "head_values": _integers([(head.values.first, head.values.end) for head in flat]).reshape(-1, 2),
        "head_mixed": _integers(columns),
        "head_mass": _integers(masses),
        "head_sink": np.array([head.sink for head in flat], np.float32),
        "head_score": np.array([head.score for head in flat], np.float32),
        "head_by_query": np.array([any(pair.q >= 0 for pair in head.pairs) for head in flat], bool),
        "pair_offsets": _offsets([len(head.pairs) for head in flat]),
        "pair_nodes": _integers([(pair.q, pair.k) for pair in pairs]).reshape(-1, 2),
        "pair_constants": np.array([(pair.q_factor, pair.k_constant) for pair in pairs], np.float32).reshape(-1, 2),
    }

"""Drawn layers, against the reference."""

from collections.abc import Sequence
from itertools import count
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from tests.engine.checks import NONLINEARITIES, assert_close
from tests.engine.inputs import draw_ablation, feature_major, nan_memory, near_tie, normal, sparse, thinned
from thinwire.engine.layers import reference
from thinwire.engine.layers.operator import run_layers
from thinwire.engine.layers.parts import Beginning, End, Layer, Map, Read, site_widths
from thinwire.engine.sites import reference as sites
from thinwire.engine.sites.pointwise import Ablation
from thinwire.engine.topk import reference as topk


class Sizes(NamedTuple):
    """How wide layers are."""

    width: int
    d_head: int
    d_mlp: int
    d_pos: int


def drawn_layers(sizes: Sizes, n_layers: int, keeps_all: bool, seed: int) -> list[Layer]:
    """Layers of two heads; odd ones have a sink and no position channels."""
    width, d_head, d_mlp, d_pos = sizes
    d_heads, layers = 2 * d_head, []

    def drawn_map(rows: int, columns: int, seed: int) -> Map:
        pattern, values = sparse(thinned(normal(rows, columns, seed=seed), 0.4, seed + 1))
        k = rows if keeps_all else max(1, rows // 3)
        return Map(pattern, values.detach(), 0.3 * normal(rows, seed=seed + 2), k)

    for layer in range(n_layers):
        seed += 100
        positions = None if layer % 2 or not d_pos else normal(1, 1, d_pos, seed=seed)
        d_read = width + (0 if positions is None else d_pos)
        read = Read(1 + 0.2 * normal(width, seed=seed), 1e-5, positions, d_read if keeps_all else max(1, d_read // 2))
        maps = [drawn_map(d_heads, d_read, seed + 10 * i) for i in range(1, 4)]
        first, second = drawn_map(d_mlp, d_read, seed + 50), drawn_map(width, d_mlp, seed + 60)
        end = End(drawn_map(width, d_heads, seed + 40), read, first, NONLINEARITIES[2 - layer % 3], second)
        layers.append(Layer(Beginning(read, *maps), 2, normal(2, seed=seed) if layer % 2 else None, end))
    return layers


def check_layers(sizes: Sizes, batch: int, length: int, n_layers: int, trials: int = 0, first_seed: int = 0) -> None:
    """Whole layers, with AbsTopK everywhere, and without any."""
    for keeps_all in (True, False):
        for seed in count(first_seed):
            layers = drawn_layers(sizes, n_layers, keeps_all, seed)
            stream, k_stream = normal(batch, length, sizes[0], seed=seed), sizes[0] if keeps_all else sizes[0] - 1
            layers = [_with_positions(layer, batch, length) for layer in layers]
            ends, beginnings = [None, *(layer.end for layer in layers)], [*(layer.beginning for layer in layers), None]
            ablations = [
                [_fixed(draw_ablation(trials, width, 0.8, i)) for i, width in enumerate(site_widths(*parts))]
                for parts in zip(ends, beginnings, strict=True)
                if trials
            ] or [[] for _ in ends]
            expected, is_clear = _reference_layers(stream, k_stream, layers, ablations)
            if is_clear:
                break
        with torch.no_grad(), nan_memory():
            ours = run_layers(feature_major(stream).detach(), k_stream, layers, ablations)
        assert ours.movedim(-1, 0).is_contiguous()
        assert_close([ours], [expected], rtol=1e-3, atol=1e-5 * max(1, float(expected.abs().max())))


def _fixed(ablation: Ablation) -> Ablation:
    return Ablation(ablation.values, ablation.mask.detach())


def _with_positions(layer: Layer, batch: int, length: int) -> Layer:
    """The layer, with position channels that differ from position to position."""
    if layer.beginning.read.positions is None:
        return layer
    channels = layer.beginning.read.positions + 0.1 * torch.arange(length)[:, None]
    read = layer.beginning.read._replace(positions=feature_major(channels.expand(batch, -1, -1)).detach())
    return layer._replace(beginning=layer.beginning._replace(read=read), end=layer.end._replace(read=read))


def _reference_layers(
    stream: Tensor, k_stream: int, layers: Sequence[Layer], ablations: Sequence[Sequence[Ablation]]
) -> tuple[Tensor, bool]:
    """What the reference returns, and whether rounding cannot change which channels it keeps."""
    ties: list[bool] = []

    def keep_rows(x: Tensor, k: int) -> Tensor:
        ties.append(k < x.shape[-1] and near_tie(x, k, 3e-6))
        return topk.keep_rows(x, k)

    with patch.object(sites, "keep_rows", keep_rows), patch.object(reference, "keep_rows", keep_rows):
        expected = reference.run_layers(stream, k_stream, layers, ablations)
    return expected, not any(ties)

"""Whole layers in few kernel calls, on a CPU, without gradients.

`run_layers` prepares the arguments of all kernels before the first one runs: kernels fill the caches with their own
data, and Python is several times slower after them. A cache of keys and values needs Python between the kernels.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thinwire.engine.attention import forward as attention
from thinwire.engine.attention.records import AttentionInput, AttentionResult
from thinwire.engine.jit import use_threads
from thinwire.engine.layers import forward
from thinwire.engine.layers.forward import Result
from thinwire.engine.layers.parts import (
    Beginning,
    End,
    Layer,
    by_feature,
    empty_rows,
    kernel_beginning,
    kernel_end,
    site_widths,
)
from thinwire.engine.layout import empty_activations, features, floats
from thinwire.engine.operator import profiled
from thinwire.engine.sites.pointwise import Ablation, KernelAblation, join_ablations

MAX_POSITIONS = 1 << 23
"""Position channels times tokens that are copied for all layers before the first kernel runs; beyond, one by one."""
_between_attentions = profiled("thinwire::between_attentions", forward.between_attentions)
_attend = profiled("thinwire::attend_by_feature", attention.attend)
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""`attend(layer, q, k, v)`, each [batch, pos, d_heads], returns what the heads return, [batch, pos, d_heads]."""


class _Passage(NamedTuple):
    """What tokens pass between two attentions, before the first, or behind the last."""

    end: End | None
    beginning: Beginning | None
    ablation: KernelAblation


def run_layers(
    stream: Tensor,
    k_stream: int,
    layers: Sequence[Layer],
    ablations: Sequence[Sequence[Ablation]],
    attend: Attend | None = None,
) -> Tensor:
    """Take the residual stream [batch, pos, width] through layers: feature-major float32 [batch, pos, width].

    `k_stream` channels of the stream are kept after each addition. `ablations` has those of all sites before the first
    attention, between each two, and behind the last, in order; each may be empty. `attend` replaces attention, for
    positions that follow others. Raises ValueError where an ablation does not fit its site.
    """
    ends, beginnings = [None, *(layer.end for layer in layers)], [*(layer.beginning for layer in layers), None]
    passages = [
        _Passage(end, beginning, join_ablations(nodes, site_widths(end, beginning), stream[..., 0].numel()))
        for end, beginning, nodes in zip(ends, beginnings, ablations, strict=True)
    ]
    out = empty_activations(stream, stream.shape[-1], torch.float32)
    use_threads()
    if attend is not None:
        _run_one_by_one(stream, k_stream, passages, attend, out)
        return out
    calls = _calls(stream, k_stream, passages, layers, features(out).numpy())
    positions = sum(_n_positions(passage) for passage in passages)
    for kernel, arguments in calls if positions > MAX_POSITIONS else list(calls):
        kernel(*arguments)
    return out


def _calls(
    stream: Tensor, k_stream: int, passages: Sequence[_Passage], layers: Sequence[Layer], out: np.ndarray
) -> Iterator[tuple[Callable[..., None], tuple[Any, ...]]]:
    """The kernels in order, with their arguments; `out` [width, n] holds the stream from the first one on."""
    batch, length, _ = stream.shape
    n, rows, threads = batch * length, by_feature(stream), torch.get_num_threads()
    widths = [_d_heads(passage) for passage in passages]
    buffers, queries = [empty_rows(max(widths), n) for _ in range(4)], np.tile(np.arange(length), (batch, 1))
    heads = empty_rows(0, n)
    for i, (passage, width) in enumerate(zip(passages, widths, strict=True)):
        q, k, v, returned = (buffer[:width] for buffer in buffers)
        parts = kernel_end(passage.end, n), kernel_beginning(passage.beginning, n), passage.ablation
        yield _between_attentions, (rows, heads, *parts, k_stream, threads, Result(out, q, k, v))
        rows, heads = out, returned
        if i < len(layers):
            yield (
                _attend,
                (
                    _attention_input(layers[i], (q, k, v), queries),
                    threads,
                    _attention_result(returned, layers[i], batch),
                ),
            )


def _run_one_by_one(stream: Tensor, k_stream: int, passages: Sequence[_Passage], attend: Attend, out: Tensor) -> None:
    """Run all kernels with `attend` between them; the stream ends up in `out`."""
    rows, result, threads = by_feature(stream), features(out).numpy(), torch.get_num_threads()
    n = rows.shape[1]
    heads = empty_rows(0, n)
    for i, passage in enumerate(passages):
        requests = [empty_activations(stream, _d_heads(passage), torch.float32) for _ in range(3)]
        parts = kernel_end(passage.end, n), kernel_beginning(passage.beginning, n), passage.ablation
        of_heads = [by_feature(x) if x.numel() else empty_rows(0, n) for x in requests]
        _between_attentions(rows, heads, *parts, k_stream, threads, Result(result, *of_heads))
        rows = result
        if passage.beginning is not None:
            heads = by_feature(attend(i, *requests))
            use_threads()


def _d_heads(passage: _Passage) -> int:
    return 0 if passage.beginning is None else passage.beginning.q.pattern.n_rows


def _n_positions(passage: _Passage) -> int:
    reads = [part.read for part in (passage.end, passage.beginning) if part is not None]
    return sum(read.positions.numel() for read in reads if read.positions is not None)


def _attention_input(layer: Layer, requests: Sequence[np.ndarray], queries: np.ndarray) -> AttentionInput:
    """q, k and v [d_heads, n] as attention kernels take them, for queries at all positions [batch, pos]."""
    q, k, v = (x.reshape(layer.n_heads, -1, *queries.shape) for x in requests)
    sink = np.empty(0, np.float32) if layer.sink is None else floats(layer.sink)
    return AttentionInput(q, k, v, sink, queries, np.float32(q.shape[1] ** -0.5))


def _attention_result(heads: np.ndarray, layer: Layer, batch: int) -> AttentionResult:
    out = heads.reshape(layer.n_heads, len(heads) // layer.n_heads, batch, -1)
    return AttentionResult(out, np.empty((0, 0, 0), np.float32))

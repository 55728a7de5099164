"""Whole layers, attention and all, in one operator, on a CPU, where nobody looks and nothing has a gradient.

What kernels take is put together for all layers before the first runs: what a kernel leaves in the caches is not
Python's, which is then several times slower.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thinwire.engine import attention_kernels, layer_kernels
from thinwire.engine.jit import use_threads
from thinwire.engine.layer_parts import Begin, End, Parts, flat, side_by_side, way_there
from thinwire.engine.layout import empty_activations, features, floats
from thinwire.engine.operator import operator, shown
from thinwire.engine.pointwise import Held

_between = shown("thinwire::between_attentions", layer_kernels.between_attentions)
_attend = shown("thinwire::attend_by_feature", attention_kernels.attend)


class Layer(NamedTuple):
    """An attention and the MLP behind it."""

    begin: Begin
    n_heads: int
    sink: Tensor | None
    """What each head adds to softmax denominators, as a logarithm. [n_heads]"""
    end: End


def run_layers(stream: Tensor, k_stream: int, layers: Sequence[Layer], held: Sequence[Sequence[Held]]) -> Tensor:
    """Take the residual stream [batch, pos, width] through layers: feature-major float32, without a gradient.

    `k_stream` of its channels are kept after each addition. Nodes may be `held`: all sites before the first attention,
    between each two, and behind the last. Raises ValueError where that does not fit.
    """
    ends, begins = [None, *(layer.end for layer in layers)], [*(layer.begin for layer in layers), None]
    tensors, numbers, epsilons, means, masks = [], [], [], [], []
    for end, begin, nodes in zip(ends, begins, held, strict=True):
        some, *others = flat(k_stream, end, begin)
        mean, mask = side_by_side(nodes, some, stream)
        for every, each in zip(
            (tensors, numbers, epsilons, means, masks), (some, *others, [mean], [mask]), strict=True
        ):
            every += each
    sinks = [torch.empty(0) if layer.sink is None else layer.sink for layer in layers]
    n_heads = [layer.n_heads for layer in layers]
    return _run_layers(stream, tensors, numbers, epsilons, means, masks, sinks, n_heads)


@operator("run_layers")
def _run_layers(
    stream: Tensor,
    tensors: Sequence[Tensor],
    numbers: Sequence[int],
    epsilons: Sequence[float],
    means: Sequence[Tensor],
    masks: Sequence[Tensor],
    sinks: Sequence[Tensor],
    n_heads: Sequence[int],
) -> Tensor:
    """See `run_layers`; of tensors, numbers and epsilons there are as many for each mask."""
    batch, length, width = stream.shape
    out = empty_activations(stream, width, torch.float32)
    rows, result = features(stream).detach().numpy(), features(out).numpy()
    n, threads, calls = batch * length, torch.get_num_threads(), []
    queries = np.tile(np.arange(length), (batch, 1))
    no_notes = np.empty((2, 0), np.float32), np.empty((n, 0), np.uint64)

    @cache
    def places(d_heads: int) -> np.ndarray:
        return torch.empty(4, d_heads, n).numpy()

    heads = places(0)[3]
    for i, mask in enumerate(masks):
        some, counts, norms = (_share(each, i, len(masks)) for each in (tensors, numbers, epsilons))
        *asked, returned = places(Parts.of(some).made()[3])
        hold, made = (means[i].numpy(), mask.detach().numpy()), (result, *asked, *no_notes)
        calls.append((_between, way_there(rows, heads, hold, some, counts, norms, made)))
        rows, heads = result, returned
        if i < len(sinks):
            q, k, v, out_of_heads = (x.reshape(n_heads[i], -1, batch, length) for x in (*asked, returned))
            scale = np.float32(q.shape[1] ** -0.5)
            given = q, k, v, floats(sinks[i]), queries, scale, threads, out_of_heads, np.empty((0, 0, 0), np.float32)
            calls.append((_attend, given))
    use_threads()
    for kernel, given in calls:
        kernel(*given)
    return out


def _share(items: Sequence[Any], i: int, n: int) -> Sequence[Any]:
    """The items of the i-th of n that have as many each."""
    size = len(items) // n
    return items[i * size : (i + 1) * size]


@_run_layers.register_fake
def _(stream, tensors, numbers, epsilons, means, masks, sinks, n_heads):
    return empty_activations(stream, stream.shape[-1], torch.float32)

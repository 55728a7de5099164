"""Whole layers, attention and all, in one operator, on a CPU, where nobody looks and nothing has a gradient.

What kernels take is put together for all layers before the first runs: what a kernel leaves in the caches is not
Python's, which is then several times slower.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
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

MOST = 1 << 23
"""Numbers of position channels, which each read has its own copy of, that are made before all kernels run."""
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
    passages = [flat(k_stream, end, begin) for end, begin in zip(ends, begins, strict=True)]
    holds = [side_by_side(nodes, tensors, stream) for nodes, (tensors, _, _) in zip(held, passages, strict=True)]
    tensors, numbers, epsilons = (list(chain(*each)) for each in zip(*passages, strict=True))
    means, masks = map(list, zip(*holds, strict=True))
    sinks = [torch.empty(0) if layer.sink is None else layer.sink for layer in layers]
    return _run_layers(stream, tensors, numbers, epsilons, means, masks, sinks, [layer.n_heads for layer in layers])


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
    out = empty_activations(stream, stream.shape[-1], torch.float32)
    some, counts, norms = (_dealt(items, len(masks)) for items in (tensors, numbers, epsilons))
    parts = list(map(Parts.of, some))
    passages = list(zip(parts, counts, norms, means, masks, strict=True))
    calls = _calls(stream, passages, sinks, n_heads, features(out).numpy())
    beside = sum(positions.numel() for each in parts for _, positions in each.reads)
    use_threads()
    for kernel, given in calls if beside > MOST else list(calls):
        kernel(*given)
    return out


def _calls(
    stream: Tensor, passages: Sequence[Any], sinks: Sequence[Tensor], n_heads: Sequence[int], result: np.ndarray
) -> Iterator[tuple[Callable[..., None], tuple[Any, ...]]]:
    """The kernels in turns, and what they take; the stream changes where its result lies."""
    batch, length, _ = stream.shape
    n, rows = batch * length, features(stream).detach().numpy()
    widths = [parts.asked()[0] for parts, *_ in passages]
    places, queries = torch.empty(4, max(widths), n).numpy(), np.tile(np.arange(length), (batch, 1))
    heads, no_notes = places[3, :0], (np.empty((2, 0), np.float32), np.empty((n, 0), np.uint64))
    for i, ((parts, counts, norms, mean, mask), width) in enumerate(zip(passages, widths, strict=True)):
        asked = places[:, :width]
        made, hold = (result, *asked[:3], *no_notes), (mean.numpy(), mask.detach().numpy())
        yield _between, way_there(rows, heads, hold, parts, counts, norms, made)
        rows, heads = result, asked[3]
        if i < len(sinks):
            q, k, v, returned = (x.reshape(n_heads[i], -1, batch, length) for x in asked)
            scale, no_sums = np.float32(q.shape[1] ** -0.5), np.empty((0, 0, 0), np.float32)
            yield _attend, (q, k, v, floats(sinks[i]), queries, scale, torch.get_num_threads(), returned, no_sums)


def _dealt(items: Sequence[Any], n: int) -> list[Sequence[Any]]:
    """The items shared out to n, in order, as many to each."""
    size = len(items) // n
    return [items[i * size : (i + 1) * size] for i in range(n)]


@_run_layers.register_fake
def _(stream, tensors, numbers, epsilons, means, masks, sinks, n_heads):
    return empty_activations(stream, stream.shape[-1], torch.float32)

"""Whole layers in plain PyTorch, composed of the references of the other rooms: what the kernel is tested against."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from thinwire.engine.attention import reference as attention
from thinwire.engine.layers.parts import Beginning, End, Layer, Map, Read
from thinwire.engine.sites import reference as sites
from thinwire.engine.sites.operator import Nonlinearity
from thinwire.engine.sites.pointwise import Ablation
from thinwire.engine.spmm.reference import dense
from thinwire.engine.topk.reference import keep_rows

Ablations = Iterator[Ablation]
"""Those of the sites that are still to be passed, in order; empty where no node is ablated."""


def run_layers(
    stream: Tensor, k_stream: int, layers: Sequence[Layer], ablations: Sequence[Sequence[Ablation]]
) -> Tensor:
    """Take the residual stream [batch, pos, width] through layers: see `operator.run_layers`."""
    passages = [iter(nodes) for nodes in ablations]
    for layer, before, after in zip(layers, passages[:-1], passages[1:], strict=True):
        # what is left of the ablations after the end of the layer before is for the beginning of this one
        heads = attend(layer, *begin(stream, layer.beginning, before))
        stream = end(stream, heads, layer.end, k_stream, after)
    return stream


def begin(stream: Tensor, beginning: Beginning, ablations: Ablations) -> tuple[Tensor, Tensor, Tensor]:
    """What attention takes of the stream [batch, pos, width]: q, k and v [batch, pos, d_heads]."""
    x = read(stream, beginning.read, ablations)
    q, k, v = (map_and_keep(x, part, ablations) for part in (beginning.q, beginning.k, beginning.v))
    return q, k, v


def attend(layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What the heads of a layer return, concatenated [batch, pos, d_heads], for q, k and v of that shape."""
    q, k, v = (x.unflatten(-1, (layer.n_heads, -1)).transpose(1, 2) for x in (q, k, v))
    positions = torch.arange(k.shape[-2], dtype=torch.int64, device="cpu").expand(len(k), -1)
    return attention.attend(q, k, v, layer.sink, positions).transpose(1, 2).flatten(2)


def end(stream: Tensor, heads: Tensor, part: End, k_stream: int, ablations: Ablations) -> Tensor:
    """The stream [batch, pos, width] behind a layer whose heads return `heads` [batch, pos, d_heads]."""
    stream = keep_rows(stream + map_and_keep(heads, part.write, ablations), k_stream)
    x = read(stream, part.read, ablations)
    hidden = map_and_keep(x, part.first, ablations, part.nonlinearity)
    return keep_rows(stream + map_and_keep(hidden, part.second, ablations), k_stream)


def read(stream: Tensor, part: Read, ablations: Ablations) -> Tensor:
    """What a sublayer reads of the stream [batch, pos, width]: [batch, pos, width and position channels]."""
    x = sites.rms_norm(stream, part.gain, part.epsilon)
    if part.positions is not None:
        x = torch.cat([x, part.positions.expand(*x.shape[:-1], -1)], -1)
    return sites.ablate(keep_rows(x, part.k), next(ablations, None))


def map_and_keep(x: Tensor, part: Map, ablations: Ablations, nonlinearity: Nonlinearity = "identity") -> Tensor:
    """AbsTopK of the nonlinearity of x [batch, pos, in] through a map: [batch, pos, out]."""
    weight = dense(part.pattern, part.values)
    return sites.map_and_keep(x, weight, part.bias, nonlinearity, part.k, next(ablations, None))

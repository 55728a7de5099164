"""All that a layer does token by token in one operator, on a CPU, where nobody looks and weights have no gradient."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thinwire.engine import layer_back_kernels, layer_kernels
from thinwire.engine.jit import use_threads
from thinwire.engine.layout import activations, empty_activations, features, floats
from thinwire.engine.operator import operator
from thinwire.engine.pointwise import Held
from thinwire.engine.sites import CODES, Nonlinearity, matrix_numbers
from thinwire.engine.tiles import TOKENS


class Map(NamedTuple):
    """A sparse map and how many AbsTopK keeps of what it makes."""

    values: Tensor
    columns: Tensor
    starts: Tensor
    """With the columns, where the nonzeros are: see `SparsePattern`."""
    bias: Tensor
    k: int


class Turned(NamedTuple):
    """Where the nonzeros of a map are, by its columns, which only the way back needs: see `SparsePattern`."""

    rows: Tensor
    column_starts: Tensor
    order: Tensor


class Read(NamedTuple):
    """How a sublayer reads the residual stream."""

    gain: Tensor
    """Of the norm, [width]."""
    epsilon: float
    """What the norm adds to a mean square."""
    positions: Tensor | None
    """Position channels [..., d_pos] that go beside it."""
    k: int


class End(NamedTuple):
    """The end of an attention, and the MLP behind it."""

    heads: Tensor
    """What the heads return, [..., d_heads]."""
    write: Map
    read: Read
    first: Map
    nonlinearity: Nonlinearity
    second: Map
    turned: Turned
    """The second map."""


class Begin(NamedTuple):
    """The begin of an attention."""

    read: Read
    q: Map
    k: Map
    v: Map


def between_attentions(
    stream: Tensor, k_stream: int, end: End | None, begin: Begin | None, held: Sequence[Held] = ()
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Take the residual stream [..., width] through the end of a layer, the begin of the next, or both.

    Returns the stream behind the MLP, of which `k_stream` channels are kept after each addition, and q, k and v
    [..., d_heads] of the next attention, which are empty without a `begin`; all are feature-major float32. Nodes may be
    `held` at all sites that are passed, in that order. There are gradients of the stream, the heads and the masks, not
    of weights. Raises ValueError where something is held that does not fit, and where there is to be a gradient and
    fewer channels of the stream are kept than it has.
    """
    nothing, no_place = stream.new_empty(0, dtype=torch.float32), stream.new_empty(0, dtype=torch.int32)
    reads = [None if end is None else end.read, None if begin is None else begin.read]
    ends = [None] * 3 if end is None else [end.write, end.first, end.second]
    begins = [None] * 3 if begin is None else begin[1:]
    tensors = []
    for read in reads:
        gain, _, positions, _ = read or (nothing, 0, None, 0)
        tensors += [gain, nothing if positions is None else positions]
    for each in (*ends, *begins):
        tensors += (nothing, no_place, no_place, nothing) if each is None else each[:4]
    tensors += [no_place] * 3 if end is None else end.turned
    ks = [0 if each is None else each.k for each in (*reads, *ends, *begins)]
    nonlinearity = CODES["identity" if end is None else end.nonlinearity]
    epsilons = [0.0 if read is None else read.epsilon for read in reads]
    heads = nothing if end is None else end.heads
    mean, mask = _side_by_side(held, tensors, stream)
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (stream, heads, mask))
    if wanted and k_stream < stream.shape[-1]:
        raise ValueError(f"there is no gradient where {k_stream} of {stream.shape[-1]} channels of the stream are kept")
    return _between_attentions(stream, heads, mask, mean, tensors, [k_stream, nonlinearity, *ks], epsilons, wanted)[:4]


class _Parts(NamedTuple):
    """What the flat list of tensors is that the operators take."""

    reads: list[Sequence[Tensor]]
    """Gain and position channels of each."""
    maps: list[Sequence[Tensor]]
    """Values, columns, starts and bias of each, in the order of their use."""
    turned: Sequence[Tensor]

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> "_Parts":
        """Those that `between_attentions` put together."""
        reads, maps = [tensors[i : i + 2] for i in (0, 2)], [tensors[i : i + 4] for i in range(4, 28, 4)]
        return cls(reads, maps, tensors[28:])

    def made(self) -> list[int]:
        """How many channels each map makes."""
        return [bias.shape[0] for *_, bias in self.maps]

    def widths(self) -> list[int]:
        """How many nodes the sites have that are passed."""
        read = [gain.shape[0] + (positions.shape[-1] if positions.numel() else 0) for gain, positions in self.reads]
        written, between, delta, *asked = self.made()
        return [width for width in (written, read[0], between, delta, read[1], *asked) if width]

    def as_kernels_take(self, n: int) -> tuple[Any, Any, list[tuple[np.ndarray, ...]]]:
        """Both reads, with position channels of n tokens, and six maps."""
        first, second = ((floats(gain), _rows(positions, n)) for gain, positions in self.reads)
        return first, second, [matrix_numbers(*each) for each in self.maps]


def _side_by_side(held: Sequence[Held], tensors: Sequence[Tensor], stream: Tensor) -> tuple[Tensor, Tensor]:
    """What nodes of all sites are held at, and one mask for them; without any nodes if nothing is held."""
    if not held:
        return torch.empty(0), torch.empty(1, 0)
    for each, width in zip(held, _Parts.of(tensors).widths(), strict=True):
        each.check(width, stream[..., 0].numel())
    if len({len(each.mask) for each in held}) > 1:
        raise ValueError("the masks of sites have different numbers of trials")
    return torch.cat([each.mean.float() for each in held]), torch.cat([each.mask.float() for each in held], 1)


@operator("between_attentions")
def _between_attentions(
    stream: Tensor,
    heads: Tensor,
    mask: Tensor,
    mean: Tensor,
    tensors: Sequence[Tensor],
    numbers: Sequence[int],
    epsilons: Sequence[float],
    wanted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `between_attentions`, which says what comes in which order; empty tensors stand for what there is not.

    If `wanted`, further results are for the way back: scales of the norms [2, n] and bits of nodes [tiles, nodes].
    """
    rows = features(stream)
    width, n = rows.shape
    reads, next_reads, maps = _Parts.of(tensors).as_kernels_take(n)
    k_stream, nonlinearity, *ks = numbers
    made = [empty_activations(stream, d, torch.float32) for d in (width, *(len(each[3]) for each in maps[3:]))]
    scales, kept = _for_the_way_back(n, mask, tensors, wanted)
    use_threads()
    layer_kernels.between_attentions(
        rows.detach().numpy(),
        _rows(heads, n),
        reads,
        *maps[:3],
        nonlinearity,
        next_reads,
        *maps[3:],
        (mean.numpy(), mask.detach().numpy()),
        (k_stream, *ks),
        tuple(map(np.float32, epsilons)),
        torch.get_num_threads(),
        (*(_rows(each, n) for each in made), scales.numpy(), kept.numpy().view(np.uint64)),
    )
    stream, q, k, v = made
    return stream, q, k, v, scales, kept


def _rows(x: Tensor, n: int) -> np.ndarray:
    """The numbers of x [..., width], which lie as they do if it is feature-major float32: [width, n]."""
    return floats(features(x)) if x.numel() else np.empty((0, n), np.float32)


def _for_the_way_back(n: int, mask: Tensor, tensors: Sequence[Tensor], wanted: bool) -> tuple[Tensor, Tensor]:
    """Place for scales and bits, as `_between_attentions` returns them."""
    trials = mask.shape[0]
    tiles = trials * -(-n // trials // TOKENS)
    nodes = sum(_Parts.of(tensors).widths()) if wanted else 0
    return mask.new_zeros(2, n if wanted else 0), mask.new_empty(tiles, nodes, dtype=torch.int64)


@operator("between_attentions_backward")
def _between_attentions_backward(
    stream: Tensor,
    heads: Tensor,
    mask: Tensor,
    mean: Tensor,
    grads: Sequence[Tensor],
    out: Tensor,
    scales: Tensor,
    kept: Tensor,
    tensors: Sequence[Tensor],
    nonlinearity: int,
    wanted_stream: bool,
    wanted_mask: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the stream and the mask, empty where not wanted, and of the heads."""
    rows, found = features(stream), features(out)
    width, n = rows.shape
    parts = _Parts.of(tensors)
    reads, next_reads, maps = parts.as_kernels_take(n)
    places, starts, order = parts.turned
    last_values = parts.maps[2][0].detach().float()[order]
    d_stream = torch.empty(width if wanted_stream else 0, n)
    d_heads = torch.empty(heads.shape[-1] if heads.numel() else 0, n)
    d_mask = torch.empty(len(kept), mask.shape[1] if wanted_mask else 0)
    use_threads()
    layer_back_kernels.between_attentions_backward(
        (rows.numpy(), found.numpy()),
        _rows(heads, n),
        reads,
        *maps[:3],
        (last_values.numpy(), places.numpy(), starts.numpy()),
        nonlinearity,
        next_reads,
        *maps[3:],
        (mean.numpy(), mask.numpy(), scales.numpy(), kept.numpy().view(np.uint64)),
        torch.get_num_threads(),
        tuple(_rows(each, n) for each in grads),
        (d_stream.numpy(), d_heads.numpy(), d_mask.numpy()),
    )
    lead = stream.shape[:-1]
    return activations(d_stream, lead), activations(d_heads, lead), d_mask.unflatten(0, (len(mask), -1)).sum(1)


@_between_attentions.register_fake
def _(stream, heads, mask, mean, tensors, numbers, epsilons, wanted):
    widths = stream.shape[-1], *_Parts.of(tensors).made()[3:]
    stream, q, k, v = (empty_activations(stream, width, torch.float32) for width in widths)
    return stream, q, k, v, *_for_the_way_back(stream[..., 0].numel(), mask, tensors, wanted)


@_between_attentions_backward.register_fake
def _(stream, heads, mask, mean, grads, out, scales, kept, tensors, nonlinearity, wanted_stream, wanted_mask):
    d_stream = empty_activations(stream, stream.shape[-1] if wanted_stream else 0, torch.float32)
    d_heads = empty_activations(stream, heads.shape[-1] if heads.numel() else 0, torch.float32)
    return d_stream, d_heads, mask.new_empty(len(mask), mask.shape[1] if wanted_mask else 0)


def _keep_for_backward(ctx, inputs, output) -> None:
    stream, heads, mask, mean, tensors, numbers, *_ = inputs
    out, q, *_, scales, kept = output
    out = out if q.numel() else stream  # only the next attention reads it again; it may be changed otherwise
    ctx.save_for_backward(stream, heads, mask, mean, out, scales, kept, *tensors)
    ctx.mark_non_differentiable(scales, kept)
    ctx.nonlinearity = numbers[1]


def _backward(ctx, *grads: Tensor | None) -> tuple[Tensor | list[None] | None, ...]:
    stream, heads, mask, mean, out, scales, kept, *tensors = ctx.saved_tensors
    wanted_stream, wanted_heads, wanted_mask, *_ = ctx.needs_input_grad
    widths = out.shape[-1], *_Parts.of(tensors).made()[3:]
    given = [
        torch.zeros_like(empty_activations(out, width)) if grad is None else grad
        for grad, width in zip(grads, widths, strict=False)
    ]
    d_stream, d_heads, d_mask = _between_attentions_backward(
        stream, heads, mask, mean, given, out, scales, kept, tensors, ctx.nonlinearity, wanted_stream, wanted_mask
    )
    return (
        d_stream.to(stream.dtype) if wanted_stream else None,
        d_heads if wanted_heads else None,
        d_mask if wanted_mask else None,
        None,
        [None] * len(tensors),
        *[None] * 3,
    )


_between_attentions.register_autograd(_backward, setup_context=_keep_for_backward)

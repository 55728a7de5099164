"""All that a layer does token by token in one operator, on a CPU, where nobody looks and weights have no gradient."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from thinwire.engine import layer_back_kernels, layer_kernels
from thinwire.engine.jit import use_threads
from thinwire.engine.layer_parts import Begin, End, Parts, flat, rows_of, side_by_side, way_there
from thinwire.engine.layout import activations, empty_activations, features
from thinwire.engine.operator import operator
from thinwire.engine.pointwise import Held
from thinwire.engine.tiles import TOKENS


def between_attentions(
    stream: Tensor,
    heads: Tensor | None,
    k_stream: int,
    end: End | None,
    begin: Begin | None,
    held: Sequence[Held] = (),
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Take the residual stream [..., width] through the end of a layer, the begin of the next, or both.

    The `end` is that of an attention whose heads return [..., d_heads]. Returns the stream behind the MLP, of which
    `k_stream` channels are kept after each addition, and q, k and v [..., d_heads] of the next attention, which are
    empty without a `begin`; all are feature-major float32. Nodes may be `held` at all sites that are passed, in that
    order. There are gradients of the stream, the heads and the masks, not of weights. Raises ValueError where something
    is held that does not fit, heads and an end do not go together, or there is to be a gradient and fewer channels of
    the stream are kept than it has.
    """
    if (heads is None) != (end is None):
        raise ValueError("heads and the end of their attention go together")
    tensors, numbers, epsilons = flat(k_stream, end, begin)
    mean, mask = side_by_side(held, tensors, stream)
    heads = torch.empty(0) if heads is None else heads
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (stream, heads, mask))
    if wanted and k_stream < stream.shape[-1]:
        raise ValueError(f"there is no gradient where {k_stream} of {stream.shape[-1]} channels of the stream are kept")
    return _between_attentions(stream, heads, mask, mean, tensors, numbers, epsilons, wanted)[:4]


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
    parts = Parts.of(tensors)
    made = [empty_activations(stream, d, torch.float32) for d in (width, *parts.asked())]
    scales, kept = _for_the_way_back(n, mask, parts, wanted)
    results = *(rows_of(each, n) for each in made), scales.numpy(), kept.numpy().view(np.uint64)
    hold = mean.numpy(), mask.detach().numpy()
    use_threads()
    layer_kernels.between_attentions(
        *way_there(rows.detach().numpy(), rows_of(heads, n), hold, parts, numbers, epsilons, results)
    )
    stream, q, k, v = made
    return stream, q, k, v, scales, kept


def _for_the_way_back(n: int, mask: Tensor, parts: Parts, wanted: bool) -> tuple[Tensor, Tensor]:
    """Place for scales and bits, as `_between_attentions` returns them."""
    trials = mask.shape[0]
    tiles = trials * -(-n // trials // TOKENS)
    nodes = sum(parts.widths()) if wanted else 0
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
    parts = Parts.of(tensors)
    reads, next_reads, maps = parts.as_kernels_take(n)
    places, starts, order = parts.turned
    last_values = parts.maps[2][0].detach().float()[order]
    d_stream = torch.empty(width if wanted_stream else 0, n)
    d_heads = torch.empty(heads.shape[-1] if heads.numel() else 0, n)
    d_mask = torch.empty(len(kept), mask.shape[1] if wanted_mask else 0)
    use_threads()
    layer_back_kernels.between_attentions_backward(
        (rows.numpy(), found.numpy()),
        rows_of(heads, n),
        reads,
        *maps[:3],
        (last_values.numpy(), places.numpy(), starts.numpy()),
        nonlinearity,
        next_reads,
        *maps[3:],
        (mean.numpy(), mask.numpy(), scales.numpy(), kept.numpy().view(np.uint64)),
        torch.get_num_threads(),
        tuple(rows_of(each, n) for each in grads),
        (d_stream.numpy(), d_heads.numpy(), d_mask.numpy()),
    )
    lead = stream.shape[:-1]
    return activations(d_stream, lead), activations(d_heads, lead), d_mask.unflatten(0, (len(mask), -1)).sum(1)


@_between_attentions.register_fake
def _(stream, heads, mask, mean, tensors, numbers, epsilons, wanted):
    widths = stream.shape[-1], *Parts.of(tensors).asked()
    stream, q, k, v = (empty_activations(stream, width, torch.float32) for width in widths)
    return stream, q, k, v, *_for_the_way_back(stream[..., 0].numel(), mask, Parts.of(tensors), wanted)


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
    widths = out.shape[-1], *Parts.of(tensors).asked()
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

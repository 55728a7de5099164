"""How a sublayer reads the residual stream, in one operator, on a CPU: RMSNorm, AbsTopK, holding."""

import numpy as np
import torch
from torch import Tensor

from thinwire.engine import read_kernels
from thinwire.engine.jit import use_threads
from thinwire.engine.layout import activations, empty_activations, features
from thinwire.engine.operator import operator
from thinwire.engine.pointwise import Held, takes
from thinwire.engine.sites import held_numbers, parts_of_mask_gradient


def pays(x: Tensor, gain: Tensor) -> bool:
    """Whether the operator is for x [..., width] and a gain."""
    return takes(x) and x.shape[-1:] == gain.shape and not gain.requires_grad


def norm_and_keep(x: Tensor, gain: Tensor, epsilon: float, k: int, held: Held | None = None) -> Tensor:
    """AbsTopK of x [..., width] over its root mean square, times gain [width], which has no gradient.

    x is feature-major float32, and so is the result. Some nodes are `held` after that; raises ValueError where that
    does not fit.
    """
    if held is not None:
        held.check(x.shape[-1], x[..., 0].numel())
    mean, mask = held if held is not None else (None, None)
    learns = x.requires_grad or (mask is not None and mask.requires_grad)
    wanted = torch.is_grad_enabled() and mask is not None and learns
    return _norm_and_keep(x, gain.detach(), mean, mask, epsilon, k, wanted)[0]


@operator("norm_and_keep")
def _norm_and_keep(
    x: Tensor, gain: Tensor, mean: Tensor | None, mask: Tensor | None, epsilon: float, k: int, wanted: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The result; flags and which tokens have fewer than k nonzeros, as those of `map_and_keep`; scales [n]."""
    rows = features(x)
    width, n = rows.shape
    out, short, scales = torch.empty(width, n), torch.empty(n, dtype=torch.bool), torch.empty(n)
    flags = torch.empty(width if wanted else 0, n, dtype=torch.int8)
    use_threads()
    read_kernels.norm_and_keep(
        rows.detach().numpy(),
        gain.float().numpy(),
        np.float32(epsilon),
        k,
        *held_numbers(mean, mask),
        torch.get_num_threads(),
        out.numpy(),
        flags.numpy(),
        short.numpy(),
        scales.numpy(),
    )
    return activations(out, x.shape[:-1]), flags, short, scales


@operator("norm_and_keep_backward")
def _norm_and_keep_backward(
    grad: Tensor,
    x: Tensor,
    gain: Tensor,
    mean: Tensor | None,
    mask: Tensor | None,
    kept: Tensor,
    flags: Tensor,
    short: Tensor,
    scales: Tensor,
    wanted_input: bool,
    wanted_mask: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the input and of the mask; empty where not wanted."""
    rows = features(x)
    width, n = rows.shape
    d_x = torch.empty(width if wanted_input else 0, n)
    d_mask = parts_of_mask_gradient(n, mask, width if wanted_mask else 0)
    use_threads()
    read_kernels.norm_and_keep_backward(
        rows.numpy(),
        gain.float().numpy(),
        scales.numpy(),
        features(kept).numpy(),
        *held_numbers(mean, mask),
        flags.numpy(),
        short.view(torch.int8).numpy(),
        features(grad.float()).numpy(),
        torch.get_num_threads(),
        d_x.numpy(),
        d_mask.numpy(),
    )
    return activations(d_x, kept.shape[:-1]), d_mask.sum(1)


@_norm_and_keep.register_fake
def _(x, gain, mean, mask, epsilon, k, wanted):
    n = x[..., 0].numel()
    out = empty_activations(x, x.shape[-1])
    flags = x.new_empty((x.shape[-1] if wanted else 0, n), dtype=torch.int8)
    return out, flags, x.new_empty(n, dtype=torch.bool), x.new_empty(n)


@_norm_and_keep_backward.register_fake
def _(grad, x, gain, mean, mask, kept, flags, short, scales, wanted_input, wanted_mask):
    width = x.shape[-1]
    return empty_activations(x, width if wanted_input else 0), x.new_empty(
        1 if mask is None else len(mask), width if wanted_mask else 0
    )


def _keep_for_backward(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:4], *output)
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx, grad: Tensor, *_) -> tuple[Tensor | None, ...]:
    wanted_x, _, _, wanted_mask, *_ = ctx.needs_input_grad
    d_x, d_mask = _norm_and_keep_backward(grad, *ctx.saved_tensors, wanted_x, wanted_mask)
    return d_x if wanted_x else None, None, None, d_mask if wanted_mask else None, None, None, None


_norm_and_keep.register_autograd(_backward, setup_context=_keep_for_backward)

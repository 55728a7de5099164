"""How a sublayer reads the residual stream, as one operator on a CPU: RMSNorm, AbsTopK, ablation."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from thinwire.engine.jit import use_threads
from thinwire.engine.layout import activations, empty_activations, features, floats
from thinwire.engine.operator import operator
from thinwire.engine.sites import norm_kernels
from thinwire.engine.sites.operator import empty_mask_gradient, empty_output, kernel_ablation, site_result
from thinwire.engine.sites.pointwise import Ablation, is_supported
from thinwire.engine.sites.records import Norm


def pays(x: Tensor, gain: Tensor) -> bool:
    """Whether the operator takes x [..., width] and a gain [width]."""
    return is_supported(x) and x.shape[-1:] == gain.shape and not gain.requires_grad


def norm_and_keep(x: Tensor, gain: Tensor, epsilon: float, k: int, ablation: Ablation | None = None) -> Tensor:
    """AbsTopK of the RMSNorm of x [..., width] with a gain [width], which gets no gradient; then the ablation.

    x is feature-major float32, and so is the result. Raises ValueError where the ablation does not fit.
    """
    if ablation is not None:
        ablation.check(x.shape[-1], x[..., 0].numel())
    values, mask = ablation if ablation is not None else (None, None)
    learns = x.requires_grad or (mask is not None and mask.requires_grad)
    needs_flags = torch.is_grad_enabled() and mask is not None and learns
    return _norm_and_keep(x, gain.detach(), values, mask, epsilon, k, needs_flags)[0]


@operator("norm_and_keep")
def _norm_and_keep(
    x: Tensor, gain: Tensor, values: Tensor | None, mask: Tensor | None, epsilon: float, k: int, needs_flags: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The result; flags and short tokens, as those of `map_and_keep`; and scales [n]."""
    rows = features(x)
    width, n = rows.shape
    out, flags, short = empty_output(width, n, needs_flags)
    scales = torch.empty(n, dtype=torch.float32, device="cpu")
    use_threads()
    norm_kernels.norm_and_keep(
        rows.detach().numpy(),
        Norm(floats(gain), np.float32(epsilon), scales.numpy()),
        k,
        torch.get_num_threads(),
        kernel_ablation(values, mask, flags),
        out.numpy(),
        short.numpy(),
    )
    return activations(out, x.shape[:-1]), flags, short, scales


@operator("norm_and_keep_backward")
def _norm_and_keep_backward(
    grad: Tensor,
    x: Tensor,
    gain: Tensor,
    scales: Tensor,
    ablation: Sequence[Tensor],
    result: Sequence[Tensor],
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    """Gradients of the input and the mask, empty where `needs` says so.

    `ablation` is [values, mask] or empty, `result` what the forward pass returned but for the scales.
    """
    rows = features(x)
    width, n = rows.shape
    needs_x, needs_mask = needs
    d_x = torch.empty(width if needs_x else 0, n, dtype=torch.float32, device="cpu")
    d_mask = empty_mask_gradient(n, ablation, width if needs_mask else 0)
    use_threads()
    norm_kernels.norm_and_keep_backward(
        rows.numpy(),
        floats(gain),
        scales.numpy(),
        site_result(result, ablation, grad),
        torch.get_num_threads(),
        d_x.numpy(),
        d_mask.numpy(),
    )
    return activations(d_x, x.shape[:-1]), d_mask.sum(1)


@_norm_and_keep.register_fake
def _(x, gain, values, mask, epsilon, k, needs_flags):
    width, n = x.shape[-1], x[..., 0].numel()
    flags = x.new_empty((width if needs_flags else 0, n), dtype=torch.int8)
    return empty_activations(x, width), flags, x.new_empty(n, dtype=torch.bool), x.new_empty(n)


@_norm_and_keep_backward.register_fake
def _(grad, x, gain, scales, ablation, result, needs):
    width = x.shape[-1]
    trials = len(ablation[1]) if ablation else 1
    return empty_activations(x, width if needs[0] else 0), x.new_empty(trials, width if needs[1] else 0)


def _keep_for_backward(ctx, inputs, output) -> None:
    x, gain, values, mask, *_ = inputs
    ctx.save_for_backward(x, gain, values, mask, *output)
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx, grad: Tensor, *_) -> tuple[Tensor | None, ...]:
    x, gain, values, mask, *result, scales = ctx.saved_tensors
    needs_x, _, _, needs_mask, *_ = ctx.needs_input_grad
    ablation = [] if mask is None else [values, mask]
    d_x, d_mask = _norm_and_keep_backward(grad, x, gain, scales, ablation, result, [needs_x, needs_mask])
    return d_x if needs_x else None, None, None, d_mask if needs_mask else None, None, None, None


_norm_and_keep.register_autograd(_backward, setup_context=_keep_for_backward)

"""RMSNorm, and ablating nodes to constants, on feature-major activations, as operators."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from thinwire.engine.jit import use_threads
from thinwire.engine.layout import activations, empty_activations, features, floats, is_feature_major
from thinwire.engine.operator import operator
from thinwire.engine.sites import pointwise_kernels
from thinwire.engine.topk.ablation import KernelAblation


def is_supported(x: Tensor) -> bool:
    """Whether the operators of this module take x [..., width]: feature-major float32 on a CPU."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and is_feature_major(x)


@operator("rms_norm_by_feature")
def rms_norm(x: Tensor, gain: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """x [..., width] over its root mean square, times gain [width]; and the scales [n] of the tokens."""
    rows = features(x)
    out, scales = torch.empty_like(rows), torch.empty(rows.shape[1], dtype=torch.float32, device="cpu")
    use_threads()
    pointwise_kernels.rms_norm(rows.numpy(), floats(gain), np.float32(epsilon), out.numpy(), scales.numpy())
    return activations(out, x.shape[:-1]), scales


@operator("rms_norm_by_feature_backward")
def _rms_norm_backward(x: Tensor, gain: Tensor, scales: Tensor, grad: Tensor) -> Tensor:
    rows = features(x)
    out = torch.empty_like(rows)
    use_threads()
    pointwise_kernels.rms_norm_backward(rows.numpy(), floats(gain), scales.numpy(), features(grad).numpy(), out.numpy())
    return activations(out, x.shape[:-1])


@operator("rms_norm_by_feature_gain_gradient")
def _rms_norm_gain_gradient(x: Tensor, scales: Tensor, grad: Tensor) -> Tensor:
    out = torch.empty(x.shape[-1], dtype=torch.float32, device="cpu")
    use_threads()
    pointwise_kernels.rms_norm_gain_gradient(features(x).numpy(), scales.numpy(), features(grad).numpy(), out.numpy())
    return out


@rms_norm.register_fake
def _(x, gain, epsilon) -> tuple[Tensor, Tensor]:
    return empty_activations(x, x.shape[-1]), x.new_empty(x[..., 0].numel())


@_rms_norm_backward.register_fake
def _(x, gain, scales, grad) -> Tensor:
    return empty_activations(x, x.shape[-1])


@_rms_norm_gain_gradient.register_fake
def _(x, scales, grad) -> Tensor:
    return x.new_empty(x.shape[-1])


def _keep_for_norm(ctx, inputs, output) -> None:
    x, gain, _ = inputs
    ctx.save_for_backward(x, gain, output[1])
    ctx.mark_non_differentiable(output[1])


def _norm_backward(ctx, grad: Tensor, _) -> tuple[Tensor | None, ...]:
    x, gain, scales = ctx.saved_tensors
    d_x = _rms_norm_backward(x, gain, scales, grad) if ctx.needs_input_grad[0] else None
    d_gain = _rms_norm_gain_gradient(x, scales, grad) if ctx.needs_input_grad[1] else None
    return d_x, d_gain, None


rms_norm.register_autograd(_norm_backward, setup_context=_keep_for_norm)


class Ablation(NamedTuple):
    """How the nodes of a site are moved towards constants."""

    values: Tensor
    """The constant of each node. [width]"""
    mask: Tensor
    """In each trial, 1 leaves a node as it is, 0 sets it to its constant, in between it moves there. [trials, width]"""

    def check(self, width: int, n: int) -> None:
        """Raise ValueError unless it fits n tokens of `width` nodes, and only the mask has a gradient."""
        values, mask = self
        if values.shape != (width,) or mask.shape[1:] != (width,) or not len(mask) or n % len(mask):
            shapes = f"constants {list(values.shape)} and a mask {list(mask.shape)}"
            raise ValueError(f"An ablation with {shapes} does not fit {width} nodes of {n} tokens.")
        if values.requires_grad:
            raise ValueError("The constants of an ablation have no gradient; detach them.")

    def apply(self, x: Tensor) -> Tensor:
        """values + mask · (x - values) for x [trials·batch, ..., width], trial by trial. Raises as `check` does."""
        self.check(x.shape[-1], x[..., 0].numel())
        values, mask = self.values.to(x.dtype), self.mask.to(x.dtype)
        if is_supported(x):
            return ablate(x, values, mask)
        folded = x.unflatten(0, (len(mask), -1))
        mask = mask.view(len(mask), *[1] * (x.ndim - 1), -1)
        moved = torch.lerp(values, folded, mask)
        return torch.where((mask == 0) & ~folded.isfinite(), values, moved).flatten(0, 1)  # 0 times infinity is NaN


def join_ablations(ablations: Sequence[Ablation], widths: Sequence[int], n: int) -> KernelAblation:
    """The ablations of several sites of n tokens, one behind the other, for kernels without a backward pass.

    Where there are none, none of the nodes is ablated. Raises ValueError where one does not fit its site, or trials
    differ.
    """
    no_flags = np.empty((0, n), np.int8)
    if not ablations:
        return KernelAblation(np.empty(0, np.float32), np.empty((1, 0), np.float32), no_flags)
    for ablation, width in zip(ablations, widths, strict=True):
        ablation.check(width, n)
    if len({len(ablation.mask) for ablation in ablations}) > 1:
        raise ValueError("The masks of sites have different numbers of trials.")
    values = torch.cat([ablation.values.float() for ablation in ablations])
    masks = torch.cat([ablation.mask.float() for ablation in ablations], 1)
    return KernelAblation(values.numpy(), masks.detach().numpy(), no_flags)


@operator("ablate_by_feature")
def ablate(x: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """values [width] + mask [trials, width] · (x - values), for x [trials·batch, ..., width], trial by trial."""
    rows = features(x)
    out = torch.empty_like(rows)
    use_threads()
    shape = len(rows), len(mask), -1
    pointwise_kernels.ablate(
        rows.view(shape).numpy(), floats(values), floats(mask.contiguous()), out.view(shape).numpy()
    )
    return activations(out, x.shape[:-1])


@operator("ablate_by_feature_backward")
def _ablate_backward(x: Tensor, values: Tensor, mask: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    rows = features(x)
    out, d_mask = torch.empty_like(rows), torch.empty(mask.shape, dtype=torch.float32, device="cpu")
    use_threads()
    shape = len(rows), len(mask), -1
    pointwise_kernels.ablate_backward(
        rows.view(shape).numpy(),
        floats(values),
        floats(mask.contiguous()),
        features(grad).view(shape).numpy(),
        out.view(shape).numpy(),
        d_mask.numpy(),
    )
    return activations(out, x.shape[:-1]), d_mask


@ablate.register_fake
def _(x, values, mask) -> Tensor:
    return empty_activations(x, x.shape[-1])


@_ablate_backward.register_fake
def _(x, values, mask, grad) -> tuple[Tensor, Tensor]:
    return empty_activations(x, x.shape[-1]), mask.new_empty(mask.shape)


def _keep_for_ablate(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward_of_ablate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    d_x, d_mask = _ablate_backward(*ctx.saved_tensors, grad)
    return d_x, None, d_mask


ablate.register_autograd(_backward_of_ablate, setup_context=_keep_for_ablate)

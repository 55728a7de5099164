"""RMSNorm, and holding nodes at constants, on feature-major activations, as operators."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from thinwire.engine import pointwise_kernels
from thinwire.engine.jit import use_threads
from thinwire.engine.layout import activations, empty_activations, features, floats, is_feature_major
from thinwire.engine.operator import operator


def takes(x: Tensor) -> bool:
    """Whether the operators of this module are for x [..., width]."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and is_feature_major(x)


@operator("rms_norm_by_feature")
def rms_norm(x: Tensor, gain: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """x [..., width] over its root mean square, times gain [width]; and the scales [n] that made it so."""
    rows = features(x)
    out, scales = torch.empty_like(rows), torch.empty(rows.shape[1])
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
    out = torch.empty(x.shape[-1])
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


class Held(NamedTuple):
    """What holds nodes of a site."""

    mean: Tensor
    """What a node is held at. [width]"""
    mask: Tensor
    """1 where a node is free and 0 where it is held, in each trial. [trials, width]"""

    def check(self, width: int, n: int) -> None:
        """Raise ValueError unless it fits n tokens of so many nodes, and has no gradient but that of the mask."""
        mean, mask = self
        if mean.shape != (width,) or mask.shape[1:] != (width,) or not len(mask) or n % len(mask):
            shapes = f"a mean {list(mean.shape)} and a mask {list(mask.shape)}"
            raise ValueError(f"{shapes} cannot hold {width} nodes of {n} tokens")
        if mean.requires_grad:
            raise ValueError("what nodes are held at has no gradient; detach it")

    def hold(self, x: Tensor) -> Tensor:
        """mean + mask · (x - mean) for x [trials·batch, ..., width], trial by trial. Raises as `check` does."""
        self.check(x.shape[-1], x[..., 0].numel())
        mean, mask = self.mean.to(x.dtype), self.mask.to(x.dtype)
        if takes(x):
            return hold(x, mean, mask)
        folded = x.unflatten(0, (len(mask), -1))
        return torch.lerp(mean, folded, mask.view(len(mask), *[1] * (x.ndim - 1), -1)).flatten(0, 1)


@operator("hold_by_feature")
def hold(x: Tensor, mean: Tensor, mask: Tensor) -> Tensor:
    """mean [width] + mask [trials, width] · (x - mean), for x [trials·batch, ..., width], trial by trial."""
    rows = features(x)
    out = torch.empty_like(rows)
    use_threads()
    shape = len(rows), len(mask), -1
    pointwise_kernels.hold(
        rows.view(shape).numpy(),
        floats(mean),
        floats(mask.contiguous()),
        out.view(shape).numpy(),
    )
    return activations(out, x.shape[:-1])


@operator("hold_by_feature_backward")
def _hold_backward(x: Tensor, mean: Tensor, mask: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    rows = features(x)
    out, d_mask = torch.empty_like(rows), torch.empty(mask.shape)
    use_threads()
    shape = len(rows), len(mask), -1
    pointwise_kernels.hold_backward(
        rows.view(shape).numpy(),
        floats(mean),
        floats(mask.contiguous()),
        features(grad).view(shape).numpy(),
        out.view(shape).numpy(),
        d_mask.numpy(),
    )
    return activations(out, x.shape[:-1]), d_mask


@hold.register_fake
def _(x, mean, mask) -> Tensor:
    return empty_activations(x, x.shape[-1])


@_hold_backward.register_fake
def _(x, mean, mask, grad) -> tuple[Tensor, Tensor]:
    return empty_activations(x, x.shape[-1]), mask.new_empty(mask.shape)


def _keep_for_hold(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward_of_hold(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    d_x, d_mask = _hold_backward(*ctx.saved_tensors, grad)
    return d_x, None, d_mask


hold.register_autograd(_backward_of_hold, setup_context=_keep_for_hold)

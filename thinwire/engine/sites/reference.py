"""The operators of this room in plain PyTorch: what the kernels are tested against."""

import torch
from torch import Tensor

from thinwire.engine.sites.operator import FUNCTIONS, Nonlinearity
from thinwire.engine.sites.pointwise import Ablation
from thinwire.engine.topk.reference import keep_rows


def ablate(x: Tensor, ablation: Ablation | None) -> Tensor:
    """values + mask · (x - values), for x [trials·batch, ..., width], trial by trial."""
    if ablation is None:
        return x
    values, mask = ablation
    mask = mask.repeat_interleave(len(x) // len(mask), 0).view(len(x), *[1] * (x.ndim - 2), -1)
    return values + mask * (x - values)


def map_and_keep(
    x: Tensor, weight: Tensor, bias: Tensor, nonlinearity: Nonlinearity, k: int, ablation: Ablation | None = None
) -> Tensor:
    """AbsTopK of the nonlinearity of x [..., in] through a dense map [out, in], then the ablation: [..., out]."""
    y = FUNCTIONS[nonlinearity](torch.nn.functional.linear(x, weight, bias))
    return ablate(keep_rows(y, k), ablation)


def rms_norm(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    """x [..., width] over its root mean square, times gain [width]."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * gain


def norm_and_keep(x: Tensor, gain: Tensor, epsilon: float, k: int, ablation: Ablation | None = None) -> Tensor:
    """AbsTopK of the RMSNorm of x [..., width] with a gain [width], then the ablation: [..., width]."""
    return ablate(keep_rows(rms_norm(x, gain, epsilon), k), ablation)

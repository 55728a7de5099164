"""The RMSNorms of the residual stream, which a caller of the forward pass may replace, for example by frozen scales.

A norm divides its input by the input's root mean square. A circuit that shrinks the residual stream has the rest of it
amplified that way; with the scales of the whole model nothing is. Like taps, norms are an argument of the forward pass,
never state of the model.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from thinwire.engine.layout import is_feature_major
from thinwire.engine.sites import norm_operator, pointwise
from thinwire.engine.sites.operator import Nonlinearity
from thinwire.engine.sites.pointwise import Ablation
from thinwire.model.fusable import Fusable

EPSILON = torch.finfo(torch.float32).eps
"""What is added to the mean square where a config says nothing else. It does not depend on a model's dtype: a model
that is cast to another one computes the same up to rounding."""


class RMSNorm(nn.RMSNorm, Fusable):
    """`torch.nn.RMSNorm` that takes feature-major activations as they are, and has one epsilon for all dtypes."""

    eps: float

    def __init__(self, width: int, eps: float | None = None) -> None:
        super().__init__(width, EPSILON if eps is None else eps, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:  # [..., width]
        if pointwise.is_supported(x) and x.shape[-1:] == self.weight.shape:
            return pointwise.rms_norm(x, self.weight, self.eps)[0]
        if not is_feature_major(x):
            return super().forward(x)
        # elsewhere these four passes are as fast as memory is; the fused kernel would transpose its input first
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(length.square() / x.shape[-1] + self.eps)
        return (x * scale * self.weight).to(x.dtype)

    def map_and_keep(self, x: Tensor, nonlinearity: Nonlinearity, k: int, ablation: Ablation | None) -> Tensor | None:
        """See `Fusable`; for x [..., width]."""
        keeps_all = k == x.shape[-1] and ablation is None
        if keeps_all or nonlinearity != "identity" or not norm_operator.pays(x, self.weight):
            return None
        return norm_operator.norm_and_keep(x, self.weight, self.eps, k, ablation)

    def scale(self, x: Tensor) -> Tensor:
        """What the norm multiplies x [..., width] by, besides its weight: at least float32 [..., 1]."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)


Norms = Callable[[int, RMSNorm, Tensor], Tensor]
"""`norms(i, norm, h_i [batch, pos, d_model]) -> x`, in place of the norm that reads residual point h_i: that of
sublayer i, or the last one, before the unembedding."""


def own_scales(point: int, norm: RMSNorm, resid: Tensor) -> Tensor:
    """The norm as it is, of `resid` [batch, pos, d_model]; the result has the same shape."""
    return norm(resid)


class ScaleRecorder:
    """The norms as they are, which keep in `scales` what each multiplies its input by: [batch, pos, 1] per point."""

    def __init__(self) -> None:
        self.scales: dict[int, Tensor] = {}

    def __call__(self, point: int, norm: RMSNorm, resid: Tensor) -> Tensor:
        """See `Norms`."""
        self.scales[point] = norm.scale(resid)
        return norm(resid)


def frozen(scales: Mapping[int, Tensor], copies: int = 1) -> Norms:
    """Norms with fixed scales, [batch, pos, 1] per point, that do not depend on the residual stream.

    `copies` is how often the batch is repeated along its dimension.
    """
    repeated = {point: scale.repeat(copies, 1, 1) for point, scale in scales.items()} if copies > 1 else scales

    def norms(point: int, norm: RMSNorm, resid: Tensor) -> Tensor:
        return (resid * repeated[point] * norm.weight).to(resid.dtype)

    return norms


class ReadRecorder:
    """Norms as they are, which keep in `values` what each returns: [batch, pos, d_model] per point."""

    def __init__(self) -> None:
        self.values: dict[int, Tensor] = {}

    def __call__(self, point: int, norm: RMSNorm, resid: Tensor) -> Tensor:
        """See `Norms`."""
        self.values[point] = norm(resid)
        return self.values[point]


def moved_by(moves: Mapping[int, Tensor], last: Tensor | None = None) -> Norms:
    """Norms that add `moves`, [batch, pos, d_model] per point, to what they return.

    Where the forward pass computes the positions `last` [batch] alone, the moves there are added.
    """

    def norms(point: int, norm: RMSNorm, resid: Tensor) -> Tensor:
        read = norm(resid)
        if point not in moves:
            return read
        move = moves[point]
        if last is not None and read.shape[1] < move.shape[1]:
            move = move[torch.arange(len(move), dtype=torch.int64, device=move.device), last][:, None]
        return read + move.to(read.dtype)

    return norms

"""The RMSNorms of the residual stream, which a caller of the forward pass may replace: with scales held fixed, say.

A norm divides its input by the input's root mean square. A circuit that shrinks the residual stream has the rest of it
amplified that way; with the scales of the whole model nothing is. Like taps, norms are an argument of the forward pass,
never state of the model.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Norms = Callable[[int, nn.RMSNorm, Tensor], Tensor]
"""`norms(i, norm, h_i [batch, pos, d_model]) -> x`, in place of the norm that reads residual point h_i: that of
sublayer i, or the last one, before the unembedding."""


def own_scales(point: int, norm: nn.RMSNorm, resid: Tensor) -> Tensor:
    """The norms as they are."""
    return norm(resid)


class ScaleRecorder:
    """The norms as they are, which keep in `scales` what each multiplies its input by: [batch, pos, 1] per point."""

    def __init__(self) -> None:
        self.scales: dict[int, Tensor] = {}

    def __call__(self, point: int, norm: nn.RMSNorm, resid: Tensor) -> Tensor:
        """See `Norms`."""
        epsilon = torch.finfo(resid.dtype).eps if norm.eps is None else norm.eps
        self.scales[point] = torch.rsqrt(resid.square().mean(-1, keepdim=True) + epsilon)
        return norm(resid)


def frozen(scales: Mapping[int, Tensor], copies: int = 1) -> Norms:
    """Norms that scale by given numbers, [batch, pos, 1] per point, whatever the residual stream is.

    `copies` is how often the batch is repeated along its dimension.
    """
    repeated = {point: scale.repeat(copies, 1, 1) for point, scale in scales.items()} if copies > 1 else scales

    def norms(point: int, norm: nn.RMSNorm, resid: Tensor) -> Tensor:
        return resid * repeated[point] * norm.weight

    return norms

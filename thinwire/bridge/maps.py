"""The bridge itself: at every residual point a linear map into the sparse model, and one back into the dense model."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from thinwire.errors import UserError
from thinwire.model.abstopk import AbsTopK

LEAST_SCALE = 1e-12
"""Root mean squares below this count as this."""


class Junction(NamedTuple):
    """The two residual points that a pair of maps joins, by their numbers."""

    dense: int
    sparse: int


def matching_points(dense: int, sparse: int, per_layer: int = 2) -> tuple[Junction, ...]:
    """Junctions of two models with so many residual points: the points before and after the same sublayers.

    `per_layer` is the dense model's points per layer. Where it is 1, each is joined to an even point of the sparse
    model, and the odd ones, between attention and MLP, have no counterpart. Raises UserError for models of different
    depth.
    """
    step = 2 // per_layer
    if (dense - 1) * step != sparse - 1:
        layers = (dense - 1) // per_layer, (sparse - 1) // 2
        raise UserError(
            f"The dense model has {dense} residual points and the sparse one {sparse} "
            f"({layers[0]} and {layers[1]} layers); give two models of the same depth."
        )
    return tuple(Junction(i, i * step) for i in range(dense))


class Bridge(nn.Module):
    """Maps between the residual streams of a dense and a sparse model (Gao et al. 2025, 2.3).

    Map i belongs to junction i. Inputs are divided by the root mean square that the stream has at this point, and
    outputs multiplied by that of the other model's, so that weights are of the same order everywhere.
    """

    dense_scales: Tensor
    """Root mean square of the dense stream at each junction, float32 [junctions]."""
    sparse_scales: Tensor
    """The same of the sparse stream."""

    def __init__(
        self, junctions: tuple[Junction, ...], d_dense: int, d_sparse: int, n_active: int | None = None
    ) -> None:
        """`n_active` is the number of channels that AbsTopK keeps of an encoder's output; None keeps all."""
        super().__init__()
        if n_active is not None and n_active > d_sparse:
            raise UserError(f"n_active is {n_active}, and the sparse model has {d_sparse} channels; give fewer.")
        self.junctions = junctions
        self.d_dense, self.d_sparse = d_dense, d_sparse
        self.encoders = nn.ModuleList(nn.Linear(d_dense, d_sparse, dtype=torch.float32) for _ in junctions)
        self.decoders = nn.ModuleList(nn.Linear(d_sparse, d_dense, dtype=torch.float32) for _ in junctions)
        self.keep = AbsTopK(d_sparse if n_active is None else n_active, d_sparse)
        self.register_buffer("dense_scales", torch.ones(len(junctions), dtype=torch.float32))
        self.register_buffer("sparse_scales", torch.ones(len(junctions), dtype=torch.float32))

    def encode(self, i: int, h: Tensor) -> Tensor:
        """The dense stream h [..., d_dense] at junction i as the sparse model's [..., d_sparse]."""
        return self.keep(self.encoders[i](h / self.dense_scales[i])) * self.sparse_scales[i]

    def decode(self, i: int, h: Tensor) -> Tensor:
        """The sparse stream h [..., d_sparse] at junction i as the dense model's [..., d_dense]."""
        return self.decoders[i](h / self.sparse_scales[i]) * self.dense_scales[i]

    @torch.no_grad()
    def set_scales(self, dense: Tensor, sparse: Tensor) -> None:
        """Set the root mean squares of both streams, each [junctions]."""
        self.dense_scales.copy_(dense.clamp_min(LEAST_SCALE))
        self.sparse_scales.copy_(sparse.clamp_min(LEAST_SCALE))

    @torch.no_grad()
    def rescale_sparse(self, sizes: Tensor) -> None:
        """Set the root mean squares of the sparse stream, [junctions], and change no map by it."""
        sizes = sizes.to(self.sparse_scales).clamp_min(LEAST_SCALE)
        for ratio, encoder, decoder in zip(self.sparse_scales / sizes, self.encoders, self.decoders, strict=True):
            encoder.get_parameter("weight").mul_(ratio)
            encoder.get_parameter("bias").mul_(ratio)
            decoder.get_parameter("weight").div_(ratio)
        self.sparse_scales.copy_(sizes)

    @torch.no_grad()
    def set_map(self, direction: str, i: int, weight: Tensor, bias: Tensor) -> None:
        """Set the map of junction i that is called "encode" or "decode": weight [out, in] and bias [out]."""
        linear = (self.encoders if direction == "encode" else self.decoders)[i]
        assert isinstance(linear, nn.Linear)
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)

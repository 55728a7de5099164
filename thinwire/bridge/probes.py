"""Sparse nodes as linear probes of a dense residual stream, all nodes of one point in one product.

1. A row of the encoder gives a channel of the sparse stream.
2. The norm before a sublayer divides it by the root mean square that the sparse stream has at this point on average,
   not at this token: that would take every row of the encoder. The gain of the norm multiplies it.
3. A query, key, value or neuron is a sparse sum of such reads, so it is one more row, then the nonlinearity.

AbsTopK is left out: whether a channel is among the largest depends on all others. `ExactPoint` computes everything, as
the sparse model itself does on the encoded stream.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thinwire.bridge.maps import Bridge
from thinwire.bridge.watched import Watched
from thinwire.circuit.edges import MATRICES, matrix_name
from thinwire.compiled.edit import bias_of
from thinwire.engine.sites.operator import FUNCTIONS
from thinwire.model.taps import record
from thinwire.model.transformer import Transformer


class Reading(NamedTuple):
    """What a node is of the sparse stream at its token, before a nonlinearity."""

    weights: Tensor
    """[d_sparse]"""
    bias: Tensor
    """[], or [context] where it also depends on the position."""


class LinearPoint:
    """The nodes of one junction as rows that the dense stream is multiplied by."""

    def __init__(self, bridge: Bridge, i: int, sparse: Transformer, nodes: Sequence[Watched]) -> None:
        linear = bridge.encoders[i]
        scale = bridge.sparse_scales[i]
        encoder = linear.get_parameter("weight").detach() / bridge.dense_scales[i] * scale  # [d_sparse, d_dense]
        constant = linear.get_parameter("bias").detach() * scale
        norm = sparse.norms[nodes[0].point]
        gain = norm.weight.detach().to(encoder) * torch.rsqrt(scale.square() + norm.eps)
        reads = [_reading(sparse, node, gain) for node in nodes]
        weights = torch.stack([read.weights for read in reads])  # [nodes, d_sparse]
        self.rows = (weights @ encoder).T.contiguous()
        """[d_dense, nodes]"""
        biases = torch.broadcast_tensors(*(read.bias for read in reads))
        self.constants = torch.stack(list(biases), -1) + weights @ constant
        """[nodes], or [context, nodes] where one depends on the position."""
        self.neurons = torch.tensor(
            [node.site is not None and node.site.kind == "mlp.post_act" for node in nodes],
            dtype=torch.bool,
            device=encoder.device,
        )
        self.any_neurons = bool(self.neurons.any())
        self.nonlinearity = FUNCTIONS[sparse.config.activation]

    def __call__(self, resid: Tensor, earlier: int = 0) -> Tensor:
        """Values [batch, pos, nodes] of the dense stream [batch, pos, d_dense], after `earlier` positions."""
        constants = self.constants if self.constants.ndim == 1 else self.constants[earlier : earlier + resid.shape[1]]
        values = resid.to(self.rows.dtype) @ self.rows + constants
        if not self.any_neurons:
            return values
        return torch.where(self.neurons, self.nonlinearity(values), values)


def _reading(sparse: Transformer, node: Watched, gain: Tensor) -> Reading:
    """A node of the sparse stream; `gain` [d_sparse] turns the stream into the read."""
    if node.site is None or node.site.kind.endswith("act_in"):
        weights = torch.zeros_like(gain)
        weights[node.index] = 1.0 if node.site is None else gain[node.index]
        return Reading(weights, gain.new_zeros(()))
    matrix = next(name for name, (_, kind) in MATRICES.items() if kind == node.site.kind)
    name = matrix_name(node.site.layer, matrix)
    weight = sparse.get_submodule(name).weight[node.index].detach().to(gain)  # pyright: ignore
    bias = bias_of(sparse, name)[node.index].to(gain)
    norm = sparse.sublayers[node.point].norm_pos
    if norm is not None:
        assert sparse.positions is not None
        bias = bias + norm(sparse.positions.detach()).to(gain) @ weight[len(gain) :]
    return Reading(weight[: len(gain)] * gain, bias)


class ExactPoint:
    """The nodes of one junction as the sparse model computes them from the encoded stream, AbsTopK included."""

    def __init__(self, bridge: Bridge, i: int, sparse: Transformer, nodes: Sequence[Watched]) -> None:
        self.bridge, self.i, self.sparse, self.nodes = bridge, i, sparse, nodes
        self.point = nodes[0].point

    def __call__(self, resid: Tensor, earlier: int = 0) -> Tensor:
        """See `LinearPoint`; but the stream [batch, earlier + pos, d_dense] is that of all positions."""
        encoded = self.bridge.encode(self.i, resid.to(self.bridge.dense_scales.dtype))
        sites = {node.site for node in self.nodes if node.site is not None}
        seen = record(sites)
        if sites:
            self.sparse.run(encoded, self.point, self.point + 1, tap=seen)
        found = [encoded if node.site is None else seen.values[node.site] for node in self.nodes]
        return torch.stack([x[:, earlier:, node.index] for x, node in zip(found, self.nodes, strict=True)], -1)

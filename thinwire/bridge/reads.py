"""Reads: where a model reads its residual stream after a norm, and how those of a sparse model move a dense model's.

Read i is the normed residual point h_i: the input of sublayer i, or, the last one, of the unembedding. A channel of a
sparse read moves a dense read along its column of the decoder.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thinwire.bridge.maps import Bridge
from thinwire.bridge.targets import Target, count_points
from thinwire.errors import UserError
from thinwire.model.norms import ReadRecorder
from thinwire.model.transformer import Transformer
from thinwire.sites import Node


class Read(NamedTuple):
    """One channel of the residual stream where a sublayer, or the unembedding, reads it."""

    point: int
    """Of the sparse model: 2·n_layers is the unembedding."""
    channel: int


def circuit_reads(nodes: Iterable[Node], n_layers: int, d_model: int, later: bool = True) -> tuple[Read, ...]:
    """The reads of a circuit: its nodes after norms, and with `later` every later read of the channels that it writes.

    Nodes that are position channels, which a norm of their own reads, are left out.
    """
    found: set[Read] = set()
    for node in nodes:
        if node.site.kind.endswith("act_in") and node.index < d_model:
            found.add(Read(node.site.sublayer, node.index))
        elif later and node.site.kind.endswith("resid_delta"):
            found |= {Read(point, node.index) for point in range(node.site.sublayer + 1, count_points(n_layers))}
    return tuple(sorted(found))


@torch.no_grad()
def all_reads(model: Transformer, tokens: Tensor) -> dict[int, Tensor]:
    """Every read of a sparse model, [batch, pos, d_model] per point, on tokens [batch, pos]."""
    recorder = ReadRecorder()
    model(tokens, norms=recorder)
    return recorder.values


class Decoder:
    """What a change of sparse reads is worth in dense reads.

    A read divides the stream by its root mean square and multiplies it by the norm's gain. So a change of channel c by
    Δ changes the sparse stream by Δ · rms_s / gain_s[c], the dense stream by the decoder's column times that, and the
    dense read by this · gain_d / rms_d: the root mean squares cancel but for the ratio sparse / dense that the bridge's
    scaled maps contain. `dose` "dense/sparse" uses the reciprocal of the ratio, as Gao et al. 2025, A.4, has it.

    A dense model's norm that subtracts the mean over channels passes on only what of the column is left without its
    mean. Its root mean square is that around the mean, which is what `fit_ridge` then measures.
    """

    def __init__(self, bridge: Bridge, sparse: Transformer, target: Target, dose: str = "sparse/dense") -> None:
        self.columns: dict[int, Tensor] = {}
        """Per point of the sparse model, [d_dense, d_sparse]."""
        self.to_dense = {each.sparse: each.dense for each in bridge.junctions}
        inner = [norm.weight.detach() for norm in sparse.norms]
        for i, (dense, point) in enumerate(bridge.junctions):
            weight = bridge.decoders[i].get_parameter("weight").detach()
            if target.centred:
                weight = weight - weight.mean(0)
            ratio = 1.0 if dose == "sparse/dense" else float((bridge.dense_scales[i] / bridge.sparse_scales[i]) ** 2)
            self.columns[point] = target.gain(dense)[:, None] * weight / inner[point].to(weight) * ratio

    def moves(self, deltas: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """The change of dense reads, [batch, pos, d_dense] per point of the dense model.

        `deltas` are those of sparse reads, [batch, pos, d_sparse] per point. Points that no junction joins, as those
        between attention and MLP if the dense model has none there, move nothing. Raises UserError where all are such.
        """
        joined = {point: delta for point, delta in deltas.items() if point in self.columns}
        if deltas and not joined:
            points, known = ", ".join(map(str, deltas)), ", ".join(map(str, self.columns))
            raise UserError(f"The bridge joins no sparse point that is read ({points}); give reads at {known}.")
        return {self.to_dense[point]: delta @ self.columns[point].T for point, delta in joined.items()}


def only(reads: Sequence[Read], deltas: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """The deltas, [batch, pos, d_sparse] per point, of these reads alone: all other channels are 0."""
    found: dict[int, Tensor] = {}
    for point in sorted({read.point for read in reads}):
        channels = [read.channel for read in reads if read.point == point]
        found[point] = torch.zeros_like(deltas[point])
        found[point][..., channels] = deltas[point][..., channels]
    return found

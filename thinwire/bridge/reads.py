"""Reads: where a model reads its residual stream after a norm, and how those of a sparse model move a dense model's.

Read i is the normed residual point h_i: the input of sublayer i, or, the last one, of the unembedding. A channel of a
sparse read moves a dense read along its column of the decoder.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

from thinwire.bridge.maps import Bridge
from thinwire.bridge.targets import Target, count_points, reads_of
from thinwire.errors import UserError
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
    return reads_of(model, tokens)


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

    def moves(self, deltas: Mapping[int, Tensor], reads: Sequence[Read] | None = None) -> dict[int, Tensor]:
        """The change of dense reads, [batch, pos, d_dense] per point of the dense model.

        `deltas` are those of sparse reads, [batch, pos, d_sparse] per point; with `reads` only theirs count. Points
        that no junction joins, as those between attention and MLP if the dense model has none there, move nothing.
        Raises UserError where all are such.
        """
        points = sorted(deltas) if reads is None else sorted({read.point for read in reads})
        joined = [point for point in points if point in self.columns]
        if points and not joined:
            read, known = ", ".join(map(str, points)), ", ".join(map(str, self.columns))
            raise UserError(f"The bridge joins no sparse point that is read ({read}); give reads at {known}.")
        if reads is None:
            return {self.to_dense[point]: deltas[point] @ self.columns[point].T for point in joined}
        found: dict[int, Tensor] = {}
        for point in joined:
            channels = sorted({read.channel for read in reads if read.point == point})
            found[self.to_dense[point]] = deltas[point][..., channels] @ self.columns[point][:, channels].T
        return found

    def shuffled(self, generator: torch.Generator) -> "Decoder":
        """The same decoder with the columns of every point in random order, so that no channel has its own."""
        other = copy(self)
        other.columns = {}
        for point, columns in self.columns.items():
            order = torch.randperm(columns.shape[1], generator=generator, dtype=torch.int64, device="cpu")
            other.columns[point] = columns[:, order.to(columns.device)]
        return other

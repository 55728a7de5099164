"""Crossings: the prefix of one model, a map of the bridge, and the rest of the other model.

For L layers there are 2L + 1 residual points and two crossings at each. Run one by one, they and the two models by
themselves take 2·2L·(2L + 2) passes of a sublayer. Crossings share the prefixes, since every prefix is a part of a
model's own pass, and their remainders run together as one batch: 2·2L + 2L·(2L + 1) passes, 28 in place of 48 for two
layers.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from thinwire.bridge.maps import Bridge
from thinwire.bridge.targets import Target, count_points
from thinwire.model.transformer import Transformer

Model = Target | Transformer
"""What crosses: the points of a transformer are its residual points."""


class OwnPass(NamedTuple):
    """A model's pass by itself."""

    streams: list[Tensor]
    """The residual stream at each junction, [batch, pos, d_model]."""
    logits: Tensor
    """[batch, pos, vocab]"""


def own_pass(model: Model, points: Sequence[int], n_points: int, tokens: Tensor) -> OwnPass:
    """Run a model with so many residual points on tokens [batch, pos], and keep its stream at `points`, in order."""
    resid, at, streams = model.embed(tokens), 0, []
    for point in points:
        resid, at = _run(model, resid, at, point), point
        streams.append(resid)
    return OwnPass(streams, model.unembed(_run(model, resid, at, n_points - 1), tokens))


def remainders(
    model: Model, points: Sequence[int], n_points: int, streams: Sequence[Tensor], tokens: Tensor
) -> Iterator[Tensor]:
    """Run the rest of a model from each of `points`, on a stream [batch, pos, d_model] in place of its own.

    Yields logits [batch, pos, vocab], in the order of the points, which rise. All remainders run as one growing batch.
    """
    batch, at = len(tokens), points[0]
    running = streams[0]
    for point, stream in zip(points[1:], streams[1:], strict=True):
        running, at = torch.cat([_run(model, running, at, point), stream]), point
    running = _run(model, running, at, n_points - 1)
    for resid in running.split(batch):
        yield model.unembed(resid, tokens)


def _run(model: Model, resid: Tensor, start: int, stop: int) -> Tensor:
    return resid if start == stop else model.run(resid, start, stop)


class Pair(NamedTuple):
    """The two models of a bridge, and the number of residual points of each."""

    dense: Target
    sparse: Transformer
    dense_points: int
    sparse_points: int

    @classmethod
    def of(cls, dense: Target, sparse: Transformer) -> Self:
        """Both models for crossings; the sparse one is the faster on sparse kernels."""
        return cls(dense, sparse, dense.n_points, count_points(sparse.config.n_layers))

    def own_dense(self, bridge: Bridge, tokens: Tensor) -> OwnPass:
        """The dense model by itself on tokens [batch, pos]."""
        return own_pass(self.dense, [each.dense for each in bridge.junctions], self.dense_points, tokens)

    def own_sparse(self, bridge: Bridge, tokens: Tensor) -> OwnPass:
        """The sparse model by itself on tokens [batch, pos]."""
        return own_pass(self.sparse, [each.sparse for each in bridge.junctions], self.sparse_points, tokens)

    def own(self, bridge: Bridge, tokens: Tensor) -> tuple[OwnPass, OwnPass]:
        """The dense and the sparse model by themselves on tokens [batch, pos]."""
        return self.own_dense(bridge, tokens), self.own_sparse(bridge, tokens)

    def into_sparse(
        self, bridge: Bridge, streams: Sequence[Tensor], tokens: Tensor, chosen: Sequence[int] | None = None
    ) -> Iterator[Tensor]:
        """Logits [batch, pos, vocab] of the crossings into the sparse model, at the chosen junctions or at all.

        `streams` are the dense model's own at every junction, [batch, pos, d_dense]; `chosen` rises.
        """
        indices = range(len(bridge.junctions)) if chosen is None else chosen
        points = [bridge.junctions[i].sparse for i in indices]
        encoded = [bridge.encode(i, streams[i]) for i in indices]
        return remainders(self.sparse, points, self.sparse_points, encoded, tokens)

    def into_dense(
        self, bridge: Bridge, streams: Sequence[Tensor], tokens: Tensor, chosen: Sequence[int] | None = None
    ) -> Iterator[Tensor]:
        """The same into the dense model, from the sparse model's own streams, [batch, pos, d_sparse]."""
        indices = range(len(bridge.junctions)) if chosen is None else chosen
        points = [bridge.junctions[i].dense for i in indices]
        decoded = [bridge.decode(i, streams[i]) for i in indices]
        return remainders(self.dense, points, self.dense_points, decoded, tokens)

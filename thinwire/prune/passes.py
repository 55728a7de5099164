"""Forward passes of candidate circuits that reuse what an earlier candidate computed.

Pairs run in chunks of similar length, so that little padding is computed. A candidate that differs from a base only
from some sublayer on starts from the base's residual stream there.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from thinwire.circuit import EdgeEnds, ablated_weights, keep_masks
from thinwire.compiled.edit import sharing
from thinwire.model.norms import Norms, own_scales
from thinwire.model.taps import Tap, ablate, record
from thinwire.model.taps import chain as chain_taps
from thinwire.model.transformer import Transformer
from thinwire.sites import Node, ResidPoint, Site
from thinwire.tasks import PairBatch, last_logits, margin, norms_on, whole_sublayers

CHUNK = 64
"""Pairs per forward pass."""
STORED_BYTES = 2**29
"""Memory for the residual points of one batch; if it is too small for all, evenly spread ones are stored."""


@dataclass(frozen=True, order=True)
class Token:
    """A token whose embedding a circuit keeps or not."""

    id: int


@dataclass(frozen=True)
class Parts:
    """The nodes and edges of a candidate circuit, and its removed tokens."""

    nodes: frozenset[Node]
    kept_edges: frozenset[EdgeEnds] | None = None
    """Kept edges between the nodes; None for every nonzero weight between them."""
    removed: frozenset[Token] = frozenset()
    """Tokens whose embedding is ablated."""

    def has(self, item: Node | EdgeEnds | Token) -> bool:
        """Whether a node, a listed edge, or a token is kept."""
        if isinstance(item, Token):
            return item not in self.removed
        return item in self.nodes if isinstance(item, Node) else self.kept_edges is not None and item in self.kept_edges

    def without(self, gone: Collection[Node | EdgeEnds | Token]) -> "Parts":
        """The rest after removing nodes with their edges, edges and tokens; `kept_edges` must not be None."""
        assert self.kept_edges is not None
        gone = set(gone)
        kept_edges = frozenset(edge for edge in self.kept_edges - gone if gone.isdisjoint(edge))
        return Parts(
            self.nodes - gone, kept_edges, self.removed.union(item for item in gone if isinstance(item, Token))
        )


def first_change(one: Parts, other: Parts, n_sublayers: int) -> int:
    """First sublayer whose computation differs; -1 if the embedding differs, n_sublayers if nothing does."""
    if one.removed != other.removed:
        return -1
    if one.kept_edges is None or other.kept_edges is None:
        if one.kept_edges is not other.kept_edges:
            return 0
        changed: frozenset[EdgeEnds] = frozenset()
    else:
        changed = one.kept_edges ^ other.kept_edges
    touched = chain(one.nodes ^ other.nodes, (target for _, target in changed))
    return min((node.site.sublayer for node in touched), default=n_sublayers)


class Outputs(NamedTuple):
    """Result of a forward pass."""

    points: dict[int, Tensor]
    """The wanted residual points [2n, pos, d_model], by index; of those from h_start on."""
    logits: Tensor
    """At the last tokens, [2n, vocab]."""


class Latest(NamedTuple):
    """The last candidate that ran."""

    parts: Parts
    margins: Tensor
    """float32 [2n]"""
    start: int
    """The residual point from which it ran."""
    points: list[dict[int, Tensor]]
    """Of each chunk, the residual points that are stored, by index."""


class Replaceable(nn.Module):
    """A model with a bias on every matrix, whose parameters can be replaced for one call."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = sharing(model, {})

    def logits(
        self,
        parameters: Mapping[str, Tensor],
        batch: PairBatch,
        tap: Tap,
        resid: Tensor | None = None,
        start: int = 0,
        norms: Norms = own_scales,
        wanted: Collection[int] = (),
    ) -> Outputs:
        """Run a batch with some parameters replaced (by name, of the model's shapes).

        `resid` is residual point h_start [2n, pos, d_model]; without it the pass starts at the embedding. `wanted` are
        the residual points to return, at most `whole_sublayers`.
        """
        named = {f"model.{name}": parameter for name, parameter in parameters.items()}
        return functional_call(self, named, (batch, tap, resid, start, norms, wanted))

    def forward(
        self, batch: PairBatch, tap: Tap, resid: Tensor | None, start: int, norms: Norms, wanted: Collection[int]
    ) -> Outputs:
        """See `logits`; `resid` is [2n, pos, d_model]."""
        resid = self.model.embed(batch.tokens) if resid is None else resid
        first = {start: resid} if start in wanted else {}
        seen = record(ResidPoint(point) for point in wanted if point > start)
        logits = last_logits(self.model, batch, chain_taps(tap, seen), resid, start, norms)
        return Outputs(first | {point.index: value for point, value in seen.values.items()}, logits)


class Passes:
    """Margins of candidates on one batch. Each runs from the first sublayer at which it differs from the base."""

    def __init__(
        self,
        model: Replaceable,
        means: Mapping[Site, Tensor],
        batch: PairBatch,
        frozen_norms: bool = False,
        ablated_embedding: Tensor | None = None,
    ) -> None:
        """`means[site]` is float32 [width]; `ablated_embedding` float32 [d_model] replaces those of removed tokens."""
        self.model, self.means, self.n_pairs = model, means, len(batch)
        self.ablated_embedding = ablated_embedding
        parts = batch.by_length(CHUNK)
        self.pair_indices, self.chunks = [pairs for pairs, _ in parts], [chunk for _, chunk in parts]
        self._norms = [norms_on(model.model, chunk, frozen_norms) for chunk in self.chunks]
        self.whole = whole_sublayers(model.model)
        tokens = sum(chunk.tokens.numel() for chunk in self.chunks)
        needed = 4 * (self.whole + 1) * tokens * model.model.config.d_model
        self.stored = range(0, self.whole + 1, max(1, -(-needed // STORED_BYTES)))
        self._base: Parts | None = None
        self._points: list[dict[int, Tensor]] = [{} for _ in self.chunks]
        self._latest: Latest | None = None

    @torch.no_grad()
    def margins(self, parts: Parts) -> Tensor:
        """Margins float32 [2n] with only the candidate's nodes and edges, not calibrated."""
        if self._latest is not None and self._latest.parts == parts:
            return self._latest.margins
        model = self.model.model
        changed = {} if parts.kept_edges is None else ablated_weights(model, parts.nodes, parts.kept_edges, self.means)
        tap = ablate(keep_masks(parts.nodes, model.config), self.means)
        known_up_to = self._start(parts)
        start = max(known_up_to, 0)
        margins = torch.empty(2, self.n_pairs, dtype=torch.float32, device="cpu")
        found = []
        for index, (chunk, known, norms) in enumerate(zip(self.chunks, self._points, self._norms, strict=True)):
            resid = known[known_up_to] if known_up_to in known else self._embed(chunk, parts.removed)
            outputs = self.model.logits(changed, chunk, tap, resid, start, norms, self.stored)
            pairs = self.pair_indices[index]
            margins[:, pairs] = margin(outputs.logits, chunk).unflatten(0, (2, -1))
            found.append(outputs.points)
        self._latest = Latest(parts, margins.flatten(), start, found)
        return margins.flatten()

    def _embed(self, batch: PairBatch, removed: Collection[Token]) -> Tensor:
        """Residual point h_0 [2n, pos, d_model], with the embeddings of removed tokens ablated."""
        model = self.model.model
        if not removed:
            return model.embed(batch.tokens)
        assert self.ablated_embedding is not None
        gone = torch.isin(batch.tokens, torch.tensor([token.id for token in removed], dtype=torch.int64, device="cpu"))
        return model.embed(
            batch.tokens, torch.where(gone[..., None], self.ablated_embedding, model.embedding(batch.tokens))
        )

    def start_from(self, parts: Parts) -> None:
        """Set the base from which later candidates start."""
        self.margins(parts)
        assert self._latest is not None
        self._points = [
            {i: point for i, point in known.items() if i < self._latest.start} | new
            for known, new in zip(self._points, self._latest.points, strict=True)
        ]
        self._base = parts

    def _start(self, parts: Parts) -> int:
        """The last stored residual point that equals the base's; -1 if there is none."""
        changed = -1 if self._base is None else min(first_change(self._base, parts, self.whole), self.whole)
        return max((point for point in self.stored if point <= changed), default=-1)

"""Forward passes of candidate circuits, with nothing computed twice.

Pairs run in chunks of like length, so that padding is not computed. A candidate that differs from a base in a late
sublayer starts from the base's residual point there.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call

from thinwire.circuit import Wire, held_weights, keep_masks
from thinwire.compiled.edit import sharing
from thinwire.model.norms import Norms, own_scales
from thinwire.model.taps import Tap, ablate
from thinwire.model.transformer import Transformer
from thinwire.sites import Node, Site
from thinwire.tasks import PairBatch, last_logits, margin, norms_on, whole_sublayers

CHUNK = 64
"""Pairs per forward pass."""
STORED_BYTES = 2**29
"""Memory for the residual points of one batch; where it is too little for all, evenly spread ones are stored."""


@dataclass(frozen=True, order=True)
class Token:
    """A token's embedding, as a thing that a circuit keeps or not; no node."""

    id: int


@dataclass(frozen=True)
class Parts:
    """What a candidate circuit keeps."""

    nodes: frozenset[Node]
    wires: frozenset[Wire] | None = None
    """Wires between the nodes; None for every nonzero weight between them."""
    removed: frozenset[Token] = frozenset()
    """Tokens whose embedding is not kept."""

    def has(self, item: Node | Wire | Token) -> bool:
        """Whether a node, a wire of those listed, or a token is kept."""
        if isinstance(item, Token):
            return item not in self.removed
        return item in self.nodes if isinstance(item, Node) else self.wires is not None and item in self.wires

    def without(self, gone: Collection[Node | Wire | Token]) -> "Parts":
        """The rest when nodes, with their wires, wires and tokens have gone; wires must be listed."""
        assert self.wires is not None
        gone = set(gone)
        wires = frozenset(wire for wire in self.wires - gone if not (wire[0] in gone or wire[1] in gone))
        return Parts(self.nodes - gone, wires, self.removed.union(item for item in gone if isinstance(item, Token)))


def first_change(one: Parts, other: Parts, n_sublayers: int) -> int:
    """First sublayer that may run differently; -1 when the embedding may, n_sublayers when nothing does."""
    if one.removed != other.removed:
        return -1
    if one.wires is None or other.wires is None:
        if one.wires is not other.wires:
            return 0
        wires: frozenset[Wire] = frozenset()
    else:
        wires = one.wires ^ other.wires
    touched = chain(one.nodes ^ other.nodes, (target for _, target in wires))
    return min((node.site.sublayer for node in touched), default=n_sublayers)


class Replaceable(nn.Module):
    """A model, with a bias on every matrix, whose parameters can be replaced for one call."""

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
    ) -> tuple[list[Tensor], Tensor]:
        """Residual points h_start … up to the last sublayer at all positions, and the last logits [2n, vocab]."""
        named = {f"model.{name}": parameter for name, parameter in parameters.items()}
        return functional_call(self, named, (batch, tap, resid, start, norms))

    def forward(
        self, batch: PairBatch, tap: Tap, resid: Tensor | None, start: int, norms: Norms
    ) -> tuple[list[Tensor], Tensor]:
        """See `logits`."""
        points = [self.model.embed(batch.tokens) if resid is None else resid]
        for sublayer in range(start, whole_sublayers(self.model)):
            points.append(self.model.run(points[-1], sublayer, sublayer + 1, tap, norms=norms))
        return points, last_logits(self.model, batch, tap, points[-1], start + len(points) - 1, norms)


class Passes:
    """Margins of candidates on one batch, each from the first residual point at which it differs from the base."""

    def __init__(
        self,
        model: Replaceable,
        means: Mapping[Site, Tensor],
        batch: PairBatch,
        frozen_norms: bool = False,
        held_embedding: Tensor | None = None,
    ) -> None:
        """`held_embedding` [d_model] is what those of removed tokens are held at, where any are to be removed."""
        self.model, self.means, self.n_pairs = model, means, len(batch)
        self.held_embedding = held_embedding
        parts = batch.by_length(CHUNK)
        self.places, self.chunks = [pairs for pairs, _ in parts], [chunk for _, chunk in parts]
        self._norms = [norms_on(model.model, chunk, frozen_norms) for chunk in self.chunks]
        self.whole = whole_sublayers(model.model)
        tokens = sum(chunk.tokens.numel() for chunk in self.chunks)
        needed = 4 * (self.whole + 1) * tokens * model.model.config.d_model
        self.stored = range(0, self.whole + 1, max(1, -(-needed // STORED_BYTES)))
        self._base: Parts | None = None
        self._points: list[dict[int, Tensor]] = [{} for _ in self.chunks]
        self._latest: tuple[Parts, Tensor, int, list[dict[int, Tensor]]] | None = None

    @torch.no_grad()
    def margins(self, parts: Parts) -> Tensor:
        """Margins [2n] with only the candidate's nodes and wires, not calibrated."""
        if self._latest is not None and self._latest[0] == parts:
            return self._latest[1]
        model = self.model.model
        changed = {} if parts.wires is None else held_weights(model, parts.nodes, parts.wires, self.means)
        tap = ablate(keep_masks(parts.nodes, model.config), self.means)
        known_up_to = self._start(parts)
        start = max(known_up_to, 0)
        margins = torch.empty(2, self.n_pairs)
        found = []
        for place, (chunk, known, norms) in enumerate(zip(self.chunks, self._points, self._norms, strict=True)):
            resid = known[known_up_to] if known_up_to in known else self._embed(chunk, parts.removed)
            points, logits = self.model.logits(changed, chunk, tap, resid, start, norms)
            pairs = self.places[place]
            margins[:, pairs] = margin(logits, chunk).unflatten(0, (2, -1))
            found.append({start + i: point for i, point in enumerate(points) if start + i in self.stored})
        self._latest = parts, margins.flatten(), start, found
        return margins.flatten()

    def _embed(self, batch: PairBatch, removed: Collection[Token]) -> Tensor:
        """Residual point h_0, the embeddings of removed tokens held."""
        model = self.model.model
        if not removed:
            return model.embed(batch.tokens)
        assert self.held_embedding is not None
        gone = torch.isin(batch.tokens, torch.tensor([token.id for token in removed]))
        return model.embed(
            batch.tokens, torch.where(gone[..., None], self.held_embedding, model.embedding(batch.tokens))
        )

    def start_from(self, parts: Parts) -> None:
        """Make a candidate the base that later ones start from."""
        self.margins(parts)
        assert self._latest is not None
        _, _, start, found = self._latest
        self._points = [
            {i: point for i, point in known.items() if i < start} | new
            for known, new in zip(self._points, found, strict=True)
        ]
        self._base = parts

    def _start(self, parts: Parts) -> int:
        """The last stored residual point that is the base's; -1 where not even the first is."""
        changed = -1 if self._base is None else min(first_change(self._base, parts, self.whole), self.whole)
        return max((point for point in self.stored if point <= changed), default=-1)

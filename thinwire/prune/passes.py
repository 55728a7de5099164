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

from thinwire.circuit import Wire, held_weights, keep_masks, sharing
from thinwire.model.taps import Tap, ablate
from thinwire.model.transformer import Transformer
from thinwire.sites import Node, Site
from thinwire.tasks import PairBatch, last_logits, margin, whole_sublayers

CHUNK = 64
"""Pairs per forward pass."""
STORED_BYTES = 2**29
"""Memory for the residual points of one batch; where it is too little for all, evenly spread ones are stored."""


@dataclass(frozen=True)
class Parts:
    """What a candidate circuit keeps."""

    nodes: frozenset[Node]
    wires: frozenset[Wire] | None = None
    """Wires between the nodes; None for every nonzero weight between them."""

    def without(self, gone: Collection[Node | Wire]) -> "Parts":
        """The rest when nodes, with their wires, and wires have gone; wires must be listed."""
        assert self.wires is not None
        gone = set(gone)
        wires = frozenset(wire for wire in self.wires - gone if not (wire[0] in gone or wire[1] in gone))
        return Parts(self.nodes - gone, wires)


def first_change(one: Parts, other: Parts, n_sublayers: int) -> int:
    """First sublayer that may run differently; n_sublayers when none does."""
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
        self, parameters: Mapping[str, Tensor], batch: PairBatch, tap: Tap, resid: Tensor | None = None, start: int = 0
    ) -> tuple[list[Tensor], Tensor]:
        """Residual points h_start … up to the last sublayer at all positions, and the last logits [2n, vocab]."""
        named = {f"model.{name}": parameter for name, parameter in parameters.items()}
        return functional_call(self, named, (batch, tap, resid, start))

    def forward(self, batch: PairBatch, tap: Tap, resid: Tensor | None, start: int) -> tuple[list[Tensor], Tensor]:
        """See `logits`."""
        points = [self.model.embed(batch.tokens) if resid is None else resid]
        for sublayer in range(start, whole_sublayers(self.model)):
            points.append(self.model.run(points[-1], sublayer, sublayer + 1, tap))
        return points, last_logits(self.model, batch, tap, points[-1], start + len(points) - 1)


class Passes:
    """Margins of candidates on one batch, each from the first residual point at which it differs from the base."""

    def __init__(self, model: Replaceable, means: Mapping[Site, Tensor], batch: PairBatch) -> None:
        self.model, self.means, self.n_pairs = model, means, len(batch)
        lengths = batch.last.unflatten(0, (2, -1)).amax(0)
        self.order = lengths.argsort(stable=True)
        self.chunks = [batch.take(part) for part in self.order.split(CHUNK)] if len(batch) else []
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
        start = self._start(parts)
        margins = torch.empty(2, self.n_pairs)
        found = []
        for place, (chunk, known) in enumerate(zip(self.chunks, self._points, strict=True)):
            points, logits = self.model.logits(changed, chunk, tap, known.get(start), start)
            pairs = self.order[place * CHUNK : (place + 1) * CHUNK]
            margins[:, pairs] = margin(logits, chunk).unflatten(0, (2, -1))
            found.append({start + i: point for i, point in enumerate(points) if start + i in self.stored})
        self._latest = parts, margins.flatten(), start, found
        return margins.flatten()

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
        if self._base is None:
            return 0
        changed = min(first_change(self._base, parts, self.whole), self.whole)
        return max(point for point in self.stored if point <= changed)

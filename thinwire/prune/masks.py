"""Masks over nodes, of several trials in one forward pass (A.5, step 2).

The batches of the trials are stacked along the batch dimension, and the tap applies each trial's mask to its own share.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from thinwire.errors import UserError
from thinwire.model.precision import autocast
from thinwire.model.taps import Tap
from thinwire.model.transformer import Transformer
from thinwire.prune.config import PruneConfig
from thinwire.sites import Node, Shape, Site, all_sites
from thinwire.tasks import PairBatch, last_logits, margin, margin_losses

PARTS = 4
"""A batch is computed in so many parts, each of pairs of like length."""


class NodeMasks:
    """One mask a node, or one for a channel of q and the same channel of k where they are tied.

    Nodes that the config forces in or out have no mask of their own.
    """

    def __init__(self, model: Transformer, means: Mapping[Site, Tensor], config: PruneConfig) -> None:
        """Raises UserError for forced nodes that the model does not have."""
        self.model, self.means = model, means
        self.widths = {site: site.width(model.config) for site in all_sites(model.config)}
        self.forced = forced_nodes(config.keep, model.config)
        excluded = {*self.forced, *forced_nodes(config.drop, model.config)}
        if len(excluded) < len(config.keep) + len(config.drop):
            raise UserError("A node is named twice among those to keep and to drop; name each once.")
        self.units = tuple(node_units(model.config, config.tied_qk, excluded))
        self.n = len(self.units)
        place = {node: i for i, node in enumerate(_every(self.widths))}
        self._columns = torch.tensor([place[node] for unit in self.units for node in unit])
        self._units = torch.tensor([i for i, unit in enumerate(self.units) for _ in unit])
        self._always = torch.zeros(len(place))
        self._always[[place[node] for node in self.forced]] = 1

    def split(self, hard: Tensor) -> dict[Site, Tensor]:
        """Masks [trials, n] as those of the sites: [trials, width] each."""
        flat = self._always.expand(len(hard), -1).index_add(1, self._columns, hard[:, self._units])
        return dict(zip(self.widths, flat.split(list(self.widths.values()), dim=-1), strict=True))

    def losses(self, hard: Tensor, batch: PairBatch) -> Tensor:
        """Task loss of every trial [trials], all trials of a part of the batch in one forward pass; `hard` [trials, n].

        Parts hold pairs of like length, so that little padding is computed.
        """
        tap = mask_tap(self.split(hard), self.means)
        parts = batch.by_length(max(1, -(-len(batch) // PARTS)))
        total = sum(self._sum(tap, part, len(hard)) for _, part in parts)
        assert isinstance(total, Tensor)
        return total / len(batch.tokens)

    def _sum(self, tap: Tap, batch: PairBatch, trials: int) -> Tensor:
        """Sum of the losses of a batch's sequences [trials]."""
        with autocast("auto", batch.tokens.device):
            logits = last_logits(self.model, fold(batch, trials), tap=tap)
        return margin_losses(margin(logits.unflatten(0, (trials, -1)), batch)).sum(-1)


def _every(widths: Mapping[Site, int]) -> list[Node]:
    return [Node(site, index) for site, width in widths.items() for index in range(width)]


def forced_nodes(names: Sequence[str], shape: Shape) -> tuple[Node, ...]:
    """The nodes of these names. Raises UserError for names that are no nodes of the model."""
    return tuple(Node.parse(name, shape) for name in names)


def node_units(shape: Shape, tied_qk: bool, excluded: set[Node]) -> list[tuple[Node, ...]]:
    """What one mask decides on: single nodes in the order of the forward pass, or q and k of a channel together."""
    units: list[tuple[Node, ...]] = []
    for site in all_sites(shape):
        partner = Site.of(site.layer, "attn.k") if tied_qk and site.kind == "attn.q" else None
        if tied_qk and site.kind == "attn.k":
            continue
        for index in range(site.width(shape)):
            unit = (Node(site, index), *([Node(partner, index)] if partner else []))
            free = tuple(node for node in unit if node not in excluded)
            if free:
                units.append(free)
    return units


def mask_tap(masks: Mapping[Site, Tensor], means: Mapping[Site, Tensor]) -> Tap:
    """A tap that moves x [trials·batch, pos, width] towards the means where `masks[site]` [trials, width] is 0."""

    def tap(site: Site, x: Tensor) -> Tensor:
        mask, mean = masks[site].to(x.dtype), means[site].to(x.dtype)
        folded = x.unflatten(0, (len(mask), -1))
        return torch.lerp(mean, folded, mask[:, None, None]).flatten(0, 1)

    return tap


def fold(batch: PairBatch, trials: int) -> PairBatch:
    """The sequences of a batch repeated for each trial, trial by trial along the batch dimension."""
    return PairBatch(
        batch.tokens.repeat(trials, 1),
        batch.last.repeat(trials),
        batch.target.repeat(trials),
        batch.foil.repeat(trials),
    )

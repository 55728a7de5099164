"""Masks over nodes: one parameter τ a node, a step forward and a sigmoid's slope backward (A.5, step 2).

Several trials run in one forward pass: their batches are stacked along the batch dimension, and the tap applies each
trial's mask to its own share.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from thinwire.model.taps import Tap
from thinwire.sites import Node, Shape, Site, all_sites
from thinwire.tasks import PairBatch


class NodeMasks(nn.Module):
    """Mask parameters τ of every node of a model, for several trials: `tau` [trials, nodes], all sites side by side."""

    def __init__(self, shape: Shape, trials: int, bias: float, scale: float, seed: int) -> None:
        super().__init__()
        self.widths = {site: site.width(shape) for site in all_sites(shape)}
        noise = torch.randn(trials, sum(self.widths.values()), generator=torch.Generator().manual_seed(seed))
        self.tau = nn.Parameter(bias + scale * noise)

    def masks(self, temperature: float) -> Tensor:
        """[τ > 0] as 0 and 1, float32 [trials, nodes], with the gradient of sigmoid(τ / temperature)."""
        soft = torch.sigmoid(self.tau / temperature)
        return (self.tau > 0).to(soft.dtype) + (soft - soft.detach())

    def split(self, flat: Tensor) -> dict[Site, Tensor]:
        """A tensor [..., nodes] cut into the sites: [..., width] each."""
        return dict(zip(self.widths, flat.split(list(self.widths.values()), dim=-1), strict=True))

    def nodes(self) -> list[Node]:
        """The node of each column of τ."""
        return [Node(site, index) for site, width in self.widths.items() for index in range(width)]

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep τ in [-1, 1]."""
        self.tau.clamp_(-1, 1)


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

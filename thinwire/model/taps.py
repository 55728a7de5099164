"""Taps: functions handed to the forward pass that see, and may change, the activations at every site.

A tap is an argument, never state of the model. Recording, ablating and patching are taps; `chain` applies several.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.engine.pointwise import Held
from thinwire.sites import Node, Site

Tap = Callable[[Site, Tensor], Tensor]
"""`tap(site, x [batch, pos, width]) -> x`, called right after AbsTopK at each site."""


def identity(site: Site, x: Tensor) -> Tensor:
    """The tap that leaves everything as it is."""
    return x


class Recorder:
    """A tap that keeps what it sees in `values`, attached to the graph so that losses on activations can be taken."""

    def __init__(self, sites: Iterable[Site] | None = None) -> None:
        self.sites = None if sites is None else frozenset(sites)
        self.values: dict[Site, Tensor] = {}

    def __call__(self, site: Site, x: Tensor) -> Tensor:
        if self.sites is None or site in self.sites:
            self.values[site] = x
        return x


def record(sites: Iterable[Site] | None = None) -> Recorder:
    """A tap that records the given sites, or all of them; read `.values[site]` [batch, pos, width] afterwards."""
    return Recorder(sites)


def patch(values: Mapping[Node, Tensor | float]) -> Tap:
    """A tap that sets single nodes to a value (a number, or a tensor that broadcasts to [batch, pos])."""
    by_site: dict[Site, list[tuple[int, Tensor | float]]] = {}
    for node, value in values.items():
        by_site.setdefault(node.site, []).append((node.index, value))

    def tap(site: Site, x: Tensor) -> Tensor:
        if site not in by_site:
            return x
        x = x.clone()
        for index, value in by_site[site]:
            x[..., index] = value
        return x

    return tap


def ablate(keep: Mapping[Site, Tensor], values: Mapping[Site, Tensor]) -> Tap:
    """A tap that holds the nodes of a site where `keep[site]` (bool [width]) is False at `values[site]` [width].

    Sites that `keep` does not name are left alone.
    """

    def tap(site: Site, x: Tensor) -> Tensor:
        if site not in keep:
            return x
        return torch.where(keep[site], x, values[site].to(x.dtype))

    return tap


@dataclass(frozen=True, eq=False)
class Hold:
    """A tap that moves x [trials·batch, pos, width] towards the means [width] where `masks[site]` [trials, width] is 0.

    Every site is to have a mask, which may have a gradient. The module of a site holds its nodes itself, so that a
    forward hook on it sees what the masks leave.
    """

    masks: Mapping[Site, Tensor]
    means: Mapping[Site, Tensor]

    def at(self, site: Site) -> Held:
        """What it does at one site."""
        return Held(self.means[site], self.masks[site])

    def __call__(self, site: Site, x: Tensor) -> Tensor:
        return self.at(site).hold(x)


def chain(*taps: Tap) -> Tap:
    """A tap that applies the given ones from left to right."""

    def tap(site: Site, x: Tensor) -> Tensor:
        for each in taps:
            x = each(site, x)
        return x

    return tap

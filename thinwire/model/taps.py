"""Taps and interventions: arguments of the forward pass that see, and may change, activations.

A tap is a function that is called at every site. An `Intervention` is a tap that names the sites and residual points it
touches: the forward pass calls it there alone, residual points included, and keeps layers that it does not touch on the
fused path of a compiled model. `record`, `patch`, `ablate` and `ablate_masks` make interventions; `chain` joins
taps. Neither taps nor interventions are ever state of the model.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from thinwire.engine.sites.pointwise import Ablation
from thinwire.sites import Node, ResidPoint, Site

P = TypeVar("P")
Tap = Callable[[Site, Tensor], Tensor]
"""`tap(site, x [batch, pos, width]) -> x`, called right after AbsTopK at each site."""


def identity(site: Site, x: Tensor) -> Tensor:
    """The tap that leaves everything as it is."""
    return x


class Intervention:
    """A tap that touches some sites and residual points, and leaves the others alone.

    Where the forward pass computes single positions only (see `Transformer.run_last`), x is [batch, 1, width] and
    `last` [batch] is the position of each; elsewhere `last` is None and x is [batch, pos, width].
    """

    def __init__(
        self, sites: frozenset[Site] | None = frozenset(), points: frozenset[ResidPoint] | None = frozenset()
    ) -> None:
        """With the sites and the residual points that it touches; None for every one."""
        self.sites = sites
        self.points = points

    def __call__(self, site: Site, x: Tensor) -> Tensor:
        """What it makes of x at a site: an intervention is a `Tap`."""
        return self.at_site(site, x) if self.touches(site) else x

    def touches(self, place: Site | ResidPoint) -> bool:
        """Whether it touches a site or a residual point."""
        places = self.sites if isinstance(place, Site) else self.points
        return places is None or place in places

    def at_site(self, site: Site, x: Tensor, last: Tensor | None = None) -> Tensor:
        """What it makes of x at a site that it touches; same shape."""
        return x

    def at_point(self, point: ResidPoint, resid: Tensor, last: Tensor | None = None) -> Tensor:
        """What it makes of the residual stream at a point that it touches; same shape."""
        return resid

    def ablation(self, site: Site) -> Ablation | None:
        """What it does at a site that it touches, where that is an ablation to constants, which kernels can do."""
        return None


class Recorder(Intervention):
    """Keeps what it sees in `values`, attached to the graph, so that losses on activations can be computed."""

    def __init__(self, sites: frozenset[Site] | None, points: frozenset[ResidPoint] | None) -> None:
        super().__init__(sites, points)
        self.values: dict[Any, Tensor] = {}

    def at_site(self, site: Site, x: Tensor, last: Tensor | None = None) -> Tensor:
        self.values[site] = x
        return x

    def at_point(self, point: ResidPoint, resid: Tensor, last: Tensor | None = None) -> Tensor:
        self.values[point] = resid
        return resid


def record(places: Iterable[Site | ResidPoint] | None = None) -> Recorder:
    """An intervention that records sites and residual points, or every site; read `.values[place]` afterwards.

    A value is [batch, pos, width], or [batch, 1, width] where the forward pass computes single positions alone.
    """
    if places is None:
        return Recorder(None, frozenset())
    chosen = list(places)
    sites = frozenset(place for place in chosen if isinstance(place, Site))
    return Recorder(sites, frozenset(place for place in chosen if isinstance(place, ResidPoint)))


class Patch(Intervention):
    """Sets single nodes, and whole residual points, to values: see `patch`."""

    def __init__(self, nodes: Mapping[Node, Tensor | float], resid: Mapping[ResidPoint, Tensor]) -> None:
        super().__init__(frozenset(node.site for node in nodes), frozenset(resid))
        self.nodes = nodes
        self.resid = resid

    def at_site(self, site: Site, x: Tensor, last: Tensor | None = None) -> Tensor:
        x = x.clone()
        for node, value in self.nodes.items():
            if node.site == site:
                if isinstance(value, Tensor) and value.ndim:
                    value = _at_positions(value[..., None], x[..., :1], last, f"{site}:{node.index}")[..., 0]
                x[..., node.index] = value
        return x

    def at_point(self, point: ResidPoint, resid: Tensor, last: Tensor | None = None) -> Tensor:
        return _at_positions(self.resid[point], resid, last, str(point)).to(resid.dtype).expand_as(resid)


def patch(values: Mapping[Node, Tensor | float] | Mapping[ResidPoint, Tensor]) -> Patch:
    """An intervention that sets nodes, or residual points, to values.

    The value of a node is a number or [batch, pos], that of a residual point [d_model] or [batch, pos, d_model].
    Positions are those of the whole prompt; where the forward pass computes some alone, the values there are taken.
    The forward pass raises ValueError where a value has another shape.
    """
    nodes: dict[Node, Tensor | float] = {}
    resid: dict[ResidPoint, Tensor] = {}
    for place, value in values.items():
        if isinstance(place, Node):
            nodes[place] = value
        else:
            assert isinstance(value, Tensor)
            resid[place] = value
    return Patch(nodes, resid)


class Ablate(Intervention):
    """Sets the nodes of some sites that are not kept to values: see `ablate`."""

    def __init__(self, keep: Mapping[Site, Tensor], values: Mapping[Site, Tensor]) -> None:
        super().__init__(frozenset(keep))
        self.keep = keep
        self.values = values

    def at_site(self, site: Site, x: Tensor, last: Tensor | None = None) -> Tensor:
        values = _at_positions(self.values[site], x, last, str(site))
        return torch.where(self.keep[site], x, values.to(x.dtype))

    def ablation(self, site: Site) -> Ablation | None:
        values, keep = self.values[site], self.keep[site]
        # a gradient of the values, or another place or dtype of either, is for `at_site`
        plain = values.ndim == 1 and values.dtype == torch.float32 and not values.requires_grad
        return Ablation(values, keep.float()[None]) if plain else None


def ablate(keep: Mapping[Site, Tensor], values: Mapping[Site, Tensor]) -> Ablate:
    """An intervention that sets the nodes of a site where `keep[site]` (bool [width]) is False to `values[site]`.

    Values are constants [width] or [batch, pos, width], with the positions of the whole prompt; where the forward pass
    computes some alone, the values there are taken. It raises ValueError where values have another shape. Sites that
    `keep` does not name are left alone.
    """
    return Ablate(keep, values)


class AblateMasks(Intervention):
    """Moves nodes towards constants, as masks say, trial by trial: see `ablate_masks`."""

    def __init__(self, masks: Mapping[Site, Tensor], constants: Mapping[Site, Tensor]) -> None:
        super().__init__(frozenset(masks))
        self.masks = masks
        self.constants = constants

    def at_site(self, site: Site, x: Tensor, last: Tensor | None = None) -> Tensor:
        return self.ablation(site).apply(x)

    def ablation(self, site: Site) -> Ablation:
        return Ablation(self.constants[site], self.masks[site])


def ablate_masks(masks: Mapping[Site, Tensor], constants: Mapping[Site, Tensor]) -> AblateMasks:
    """An intervention that moves x [trials·batch, pos, width] to constants + mask · (x - constants).

    `masks[site]` is [trials, width] and may have a gradient, `constants[site]` is [width]. The module of a site does
    the ablation, so that a forward hook on it sees what the masks leave.
    """
    return AblateMasks(masks, constants)


class Chain(Intervention):
    """Applies interventions from left to right."""

    def __init__(self, parts: Sequence[Intervention]) -> None:
        super().__init__(_union([part.sites for part in parts]), _union([part.points for part in parts]))
        self.parts = parts

    def at_site(self, site: Site, x: Tensor, last: Tensor | None = None) -> Tensor:
        for part in self.parts:
            x = part.at_site(site, x, last) if part.touches(site) else x
        return x

    def at_point(self, point: ResidPoint, resid: Tensor, last: Tensor | None = None) -> Tensor:
        for part in self.parts:
            resid = part.at_point(point, resid, last) if part.touches(point) else resid
        return resid

    def ablation(self, site: Site) -> Ablation | None:
        touching = [part for part in self.parts if part.touches(site)]
        return touching[0].ablation(site) if len(touching) == 1 else None


def at_point(tap: Tap, index: int, resid: Tensor, last: Tensor | None = None) -> Tensor:
    """What a tap makes of residual point h_index [batch, pos, d_model]; only interventions touch residual points."""
    point = ResidPoint(index)
    return tap.at_point(point, resid, last) if isinstance(tap, Intervention) and tap.touches(point) else resid


def chain(*taps: Tap) -> Tap:
    """A tap that applies the given ones from left to right; an `Intervention` if all of them are."""
    if all(isinstance(tap, Intervention) for tap in taps):
        return Chain(taps)  # pyright: ignore

    def tap(site: Site, x: Tensor) -> Tensor:
        for each in taps:
            x = each(site, x)
        return x

    return tap


def _union(places: Sequence[frozenset[P] | None]) -> frozenset[P] | None:
    return None if None in places else frozenset().union(*(some for some in places if some is not None))


def _at_positions(values: Tensor, x: Tensor, last: Tensor | None, place: str) -> Tensor:
    """Values for x [batch, n, width]: constants [width], or [batch, pos, width] at the positions `last` of x.

    Raises ValueError where they have neither shape.
    """
    if values.ndim == 1 and values.shape == x.shape[-1:]:
        return values
    if values.ndim == 3 and last is not None and len(values) == len(x) and values.shape[1] > int(last.max()):
        values = values[torch.arange(len(values), device=values.device), last][:, None]
    if values.shape != x.shape:
        batch, _, width = x.shape
        raise ValueError(
            f"Values for {place} are {list(values.shape)}; give [{width}] or [{batch}, positions, {width}]."
        )
    return values

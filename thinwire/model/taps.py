"""Taps and interventions: arguments of the forward pass that see, and may change, activations.

A tap is a function that is called at every site. An `Intervention` is a tap that names the sites and residual points
that it touches. The forward pass calls it at these alone, and layers that it does not touch stay on the fused path of a
compiled model. `record`, `patch`, `ablate` and `ablate_masks` make interventions, and `chain` joins taps; an observer
of one's own is a subclass of `Intervention`. Neither taps nor interventions are ever state of the model.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from thinwire.display import plural
from thinwire.engine.sites.pointwise import Ablation
from thinwire.sites import Node, ResidPoint, Site

P = TypeVar("P")
Tap = Callable[[Site, Tensor], Tensor]
"""`tap(site, x [batch, pos, width]) -> x`, called right after AbsTopK at each site."""


def identity(site: Site, x: Tensor) -> Tensor:
    """The tap that leaves x [batch, pos, width] as it is."""
    return x


class Intervention:
    """Base of taps that touch some sites and residual points, and leave the others alone.

    A subclass overrides `at_site`, `at_point` or both. The forward pass calls them in the order in which it computes:
    h_0, the sites of sublayer 0, h_1, and so on. `Transformer.run` does not call them at the residual point that it
    starts from. Where the forward pass computes single positions only (see `Transformer.run_last`), x is
    [batch, 1, width] and `last` [batch] is the position of each; elsewhere `last` is None and x is [batch, pos, width].
    """

    def __init__(
        self, sites: frozenset[Site] | None = frozenset(), points: frozenset[ResidPoint] | None = frozenset()
    ) -> None:
        """With the sites and the residual points that it touches; None for every one."""
        self.sites = sites
        self.points = points

    def __call__(self, site: Site, x: Tensor) -> Tensor:
        """x [batch, pos, width] at a site after the intervention, in the same shape: an intervention is a `Tap`."""
        return self.at_site(site, x) if self.touches(site) else x

    def __repr__(self) -> str:
        sites = "every site" if self.sites is None else plural(len(self.sites), "site")
        points = "every residual point" if self.points is None else plural(len(self.points), "residual point")
        return f"{type(self).__name__}({sites}, {points})"

    def touches(self, place: Site | ResidPoint) -> bool:
        """Whether it touches a site or a residual point."""
        places = self.sites if isinstance(place, Site) else self.points
        return places is None or place in places

    def at_site(self, site: Site, x: Tensor, last: Tensor | None = None) -> Tensor:
        """x [batch, pos, width] at a site that it touches, after the intervention: same shape. `last` is [batch]."""
        return x

    def at_point(self, point: ResidPoint, resid: Tensor, last: Tensor | None = None) -> Tensor:
        """`resid` [batch, pos, d_model] at a point that it touches, after the intervention: the same shape.

        `last` is [batch].
        """
        return resid

    def ablation(self, site: Site) -> Ablation | None:
        """What it does at a site that it touches, if that is an ablation to constants, which kernels compute; or None.

        The result replaces the call of `at_site`. The module of the site applies it, so that a forward hook on it sees
        ablated activations.
        """
        return None


class Recorder(Intervention):
    """Keeps activations in `values`, attached to the graph, so that losses on them can be computed."""

    def __init__(self, sites: frozenset[Site] | None, points: frozenset[ResidPoint] | None) -> None:
        super().__init__(sites, points)
        self.values: dict[Any, Tensor] = {}

    def at_site(self, site: Site, x: Tensor, last: Tensor | None = None) -> Tensor:
        """See `Intervention`; x and the result are [batch, pos, width], `last` [batch]."""
        self.values[site] = x
        return x

    def at_point(self, point: ResidPoint, resid: Tensor, last: Tensor | None = None) -> Tensor:
        """See `Intervention`; `resid` and the result are [batch, pos, d_model], `last` [batch]."""
        self.values[point] = resid
        return resid


def record(places: Iterable[Site | ResidPoint] | None = None) -> Recorder:
    """An intervention that records sites and residual points, by default every site; read `.values[place]` afterwards.

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
        """See `Intervention`; x and the result are [batch, pos, width], `last` [batch]."""
        x = x.clone()
        for node, value in self.nodes.items():
            if node.site == site:
                channel = x[..., node.index]
                is_number = not isinstance(value, Tensor)
                channel[:] = value if is_number else _fitted(value, channel, last, f"node {node.index} of {site}")
        return x

    def at_point(self, point: ResidPoint, resid: Tensor, last: Tensor | None = None) -> Tensor:
        """See `Intervention`; `resid` and the result are [batch, pos, d_model], `last` [batch]."""
        return _fitted(self.resid[point], resid, last, str(point)).to(resid.dtype).expand_as(resid)


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
        """See `Intervention`; x and the result are [batch, pos, width], `last` [batch]."""
        keep, values = self.keep[site], _fitted(self.values[site], x, last, str(site))
        if keep.shape != x.shape[-1:]:
            raise ValueError(f"The mask for {site} is {list(keep.shape)}; give [{x.shape[-1]}], a bool a node.")
        return torch.where(keep, x, values.to(x.dtype))

    def ablation(self, site: Site) -> Ablation | None:
        """See `Intervention`."""
        values, keep = self.values[site], self.keep[site]
        constant = values.ndim == 1 and values.dtype == torch.float32 and not values.requires_grad
        return Ablation(values, keep.float()[None]) if constant else None


def ablate(keep: Mapping[Site, Tensor], values: Mapping[Site, Tensor]) -> Ablate:
    """An intervention that sets the nodes of a site where `keep[site]` (bool [width]) is False to `values[site]`.

    Values are constants [width] or [batch, pos, width], with the positions of the whole prompt; where the forward pass
    computes some alone, the values there are taken. It raises ValueError where values have another shape. Sites that
    `keep` does not name are left alone. Raises ValueError for a site without values.
    """
    _check_values(keep, values)
    return Ablate(keep, values)


class AblateMasks(Intervention):
    """Moves nodes towards constants, as masks say, trial by trial: see `ablate_masks`."""

    def __init__(self, masks: Mapping[Site, Tensor], constants: Mapping[Site, Tensor]) -> None:
        super().__init__(frozenset(masks))
        self.masks = masks
        self.constants = constants

    def at_site(self, site: Site, x: Tensor, last: Tensor | None = None) -> Tensor:
        """See `Intervention`; x and the result are [batch, pos, width], `last` [batch]."""
        ablation = self.ablation(site)
        check_trials(ablation, x)
        return ablation.apply(x)

    def ablation(self, site: Site) -> Ablation:
        """See `Intervention`."""
        return Ablation(self.constants[site], self.masks[site])


def ablate_masks(masks: Mapping[Site, Tensor], constants: Mapping[Site, Tensor]) -> AblateMasks:
    """An intervention that moves x [trials·batch, pos, width] to constants + mask · (x - constants).

    `masks[site]` is [trials, width] and may have a gradient, `constants[site]` is [width]. The module of a site does
    the ablation, so that a forward hook on it sees the ablated activations. The forward pass raises ValueError where
    shapes do not fit. Raises ValueError for a site without constants.
    """
    _check_values(masks, constants)
    return AblateMasks(masks, constants)


class PlainTap(Intervention):
    """A tap that is a plain function, as an intervention that touches every site."""

    def __init__(self, tap: Tap) -> None:
        super().__init__(sites=None)
        self.tap = tap

    def at_site(self, site: Site, x: Tensor, last: Tensor | None = None) -> Tensor:
        """See `Intervention`; x and the result are [batch, pos, width], `last` [batch]."""
        return self.tap(site, x)


class Chain(Intervention):
    """Applies interventions from left to right."""

    def __init__(self, parts: Sequence[Intervention]) -> None:
        super().__init__(_union([part.sites for part in parts]), _union([part.points for part in parts]))
        self.parts = parts

    def at_site(self, site: Site, x: Tensor, last: Tensor | None = None) -> Tensor:
        """See `Intervention`; x and the result are [batch, pos, width], `last` [batch]."""
        for part in self.parts:
            x = part.at_site(site, x, last) if part.touches(site) else x
        return x

    def at_point(self, point: ResidPoint, resid: Tensor, last: Tensor | None = None) -> Tensor:
        """See `Intervention`; `resid` and the result are [batch, pos, d_model], `last` [batch]."""
        for part in self.parts:
            resid = part.at_point(point, resid, last) if part.touches(point) else resid
        return resid

    def ablation(self, site: Site) -> Ablation | None:
        """See `Intervention`."""
        touching = [part for part in self.parts if part.touches(site)]
        return touching[0].ablation(site) if len(touching) == 1 else None


def at_point(tap: Tap, index: int, resid: Tensor, last: Tensor | None = None) -> Tensor:
    """Residual point h_index, `resid` [batch, pos, d_model], after a tap; `last` is [batch].

    The result has the same shape. Only interventions touch residual points.
    """
    point = ResidPoint(index)
    return tap.at_point(point, resid, last) if isinstance(tap, Intervention) and tap.touches(point) else resid


def check_trials(ablation: Ablation, x: Tensor) -> None:
    """Raise ValueError unless the sequences of x [batch, pos, width] are as many for each trial of an ablation."""
    trials = len(ablation.mask)
    if trials and len(x) % trials:
        raise ValueError(f"{len(x)} sequences are not a multiple of the {trials} trials of an ablation.")


def chain(*taps: Tap) -> Chain:
    """An intervention that applies taps from left to right."""
    parts = [tap if isinstance(tap, Intervention) else PlainTap(tap) for tap in taps if tap is not identity]
    return Chain(parts)


def _union(places: Sequence[frozenset[P] | None]) -> frozenset[P] | None:
    return None if None in places else frozenset().union(*(some for some in places if some is not None))


def _check_values(sites: Iterable[Site], values: Mapping[Site, Tensor]) -> None:
    missing = sorted(set(sites) - values.keys())
    if missing:
        raise ValueError(f"There are no values for {missing[0]}; give values for every site to ablate.")


def _fitted(values: Tensor, x: Tensor, last: Tensor | None, place: str) -> Tensor:
    """Values for x [batch, n, width], or for one channel of it [batch, n]; at the positions `last` of x, if any.

    They are the same at every position, [width] or [], or lie on all positions of the prompt, [batch, pos, width] or
    [batch, pos]. Raises ValueError where they have neither shape.
    """
    if values.shape == x.shape[2:]:
        return values
    if last is not None and values.ndim == x.ndim and len(values) == len(x) and values.shape[1] > int(last.max()):
        values = values[torch.arange(len(values), device=values.device, dtype=torch.int64), last][:, None]
    if values.shape != x.shape:
        channels = "".join(f", {width}" for width in x.shape[2:])
        constant = f"[{x.shape[2]}]" if channels else "a number"
        shape = list(values.shape)
        raise ValueError(f"Values for {place} are {shape}; give {constant} or [{len(x)}, positions{channels}].")
    return values

"""The vocabulary of places: sites, nodes and residual points, with their names, widths and counts.

A *site* is a place in one layer where activations are sparsified and can be tapped. A *node* is one channel of a site.
A *residual point* is a place between sublayers, where bridges attach; residual points have no nodes.
Names follow the released code of Gao et al. 2025: `3.attn.q`, `0.mlp.post_act`, `10.attn.q:82.1`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from thinwire.errors import UserError

SiteKind = Literal[
    "attn.act_in",
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.resid_delta",
    "mlp.act_in",
    "mlp.post_act",
    "mlp.resid_delta",
]
KINDS: tuple[SiteKind, ...] = get_args(SiteKind)
"""The eight kinds of site of a layer, in the order of the forward pass."""
ATTENTION_KINDS = KINDS[:5]
HEADED_KINDS = ("attn.q", "attn.k", "attn.v")


class Shape(Protocol):
    """The fields of a model config that determine widths and counts."""

    @property
    def n_layers(self) -> int: ...
    @property
    def d_model(self) -> int: ...
    @property
    def d_in(self) -> int: ...
    @property
    def d_head(self) -> int: ...
    @property
    def n_heads(self) -> int: ...
    @property
    def d_mlp(self) -> int: ...


@dataclass(frozen=True, order=True)
class Site:
    """One place in one layer; `str(site) == "3.attn.q"`."""

    layer: int
    rank: int
    """Index into KINDS, so that sites sort in the order of the forward pass."""

    @classmethod
    def of(cls, layer: int, kind: str) -> "Site":
        """The site of `kind` in `layer`; `kind` is one of KINDS."""
        if kind not in KINDS:
            raise UserError(f"'{kind}' is not a kind of site; use one of {', '.join(KINDS)}.")
        return cls(layer, KINDS.index(kind))

    @classmethod
    def parse(cls, text: str) -> "Site":
        """The site with a name like `3.attn.q`. Raises UserError for any other text."""
        layer, _, kind = text.partition(".")
        if not re.fullmatch(r"[0-9]{1,4}", layer) or kind not in KINDS:
            raise UserError(f"'{text}' is not a site; write a layer and one of {', '.join(KINDS)}, as in 3.attn.q.")
        return cls.of(int(layer), kind)

    @property
    def kind(self) -> SiteKind:
        return KINDS[self.rank]

    @property
    def sublayer(self) -> int:
        """Index of the sublayer the site belongs to: 2·layer for attention, 2·layer + 1 for the MLP."""
        return 2 * self.layer + (self.kind not in ATTENTION_KINDS)

    @property
    def headed(self) -> bool:
        """Whether the channels of the site belong to attention heads."""
        return self.kind in HEADED_KINDS

    def width(self, shape: Shape) -> int:
        """Number of channels (nodes) at the site."""
        if self.headed:
            return shape.n_heads * shape.d_head
        if self.kind == "mlp.post_act":
            return shape.d_mlp
        return shape.d_in if self.kind.endswith("act_in") else shape.d_model

    def __str__(self) -> str:
        return f"{self.layer}.{self.kind}"

    def __repr__(self) -> str:
        return f"Site('{self}')"


@dataclass(frozen=True, order=True)
class Node:
    """One channel of one site; `index` counts over all heads together, and so does the node as text."""

    site: Site
    index: int

    def __str__(self) -> str:
        return f"{self.site}:{self.index}"

    def __repr__(self) -> str:
        return f"Node('{self}')"

    def name(self, shape: Shape) -> str:
        """`10.attn.q:82.1` for head 82 channel 1; `0.mlp.post_act:2790` elsewhere."""
        if self.site.headed:
            head, channel = divmod(self.index, shape.d_head)
            return f"{self.site}:{head}.{channel}"
        return f"{self.site}:{self.index}"

    @classmethod
    def parse(cls, text: str, shape: Shape) -> "Node":
        """The node with this name in a model of this shape. Raises UserError for names outside it."""
        place, _, channel = text.partition(":")
        site = Site.parse(place)
        form = r"([0-9]{1,9})\.([0-9]{1,9})" if site.headed else r"([0-9]{1,9})"
        match = re.fullmatch(form, channel)
        if not match:
            example = "10.attn.q:82.1" if site.headed else "0.mlp.post_act:2790"
            raise UserError(f"'{text}' is not a node; write it like {example}.")
        parts = [int(part) for part in match.groups()]
        index = parts[0] * shape.d_head + parts[1] if site.headed else parts[0]
        outside = site.layer >= shape.n_layers or index >= site.width(shape)
        if outside or (site.headed and parts[1] >= shape.d_head):
            raise UserError(
                f"Node {text} lies outside the model, which has {shape.n_layers} layers and {describe(shape)}."
            )
        return cls(site, index)


@dataclass(frozen=True, order=True)
class ResidPoint:
    """The residual stream before sublayer `index` (0 … 2·n_layers; the last is before the unembedding)."""

    index: int

    def __str__(self) -> str:
        return f"h_{self.index}"


def all_sites(shape: Shape) -> Iterator[Site]:
    """Every site of a model, in the order of the forward pass."""
    return (Site(layer, rank) for layer in range(shape.n_layers) for rank in range(len(KINDS)))


def resid_points(shape: Shape) -> Iterator[ResidPoint]:
    """Every residual point, h_0 … h_2L."""
    return (ResidPoint(index) for index in range(2 * shape.n_layers + 1))


def n_nodes(shape: Shape) -> int:
    """Number of nodes of the whole model."""
    return sum(site.width(shape) for site in all_sites(shape))


def describe(shape: Shape) -> str:
    """The widths of a model in a phrase, for error messages."""
    return f"d_model {shape.d_model}, {shape.n_heads} heads of {shape.d_head}, d_mlp {shape.d_mlp}"

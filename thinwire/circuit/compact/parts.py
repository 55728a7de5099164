"""What of a circuit varies, part by part: reads of the stream, products with matrices, heads. Constants are folded.

Everything is read off the model of `Circuit.cut_model`, in which dropped wires are biases already. A removed node is a
constant, so what it brings to a channel joins the channel's base. What is left are wires out of kept nodes, also those
to removed nodes, which compete in AbsTopK. With a sink, attention passes on only a share of what v is held at, the
*mass* of its head: where no q or k is kept it follows from the position, and bases have a table of positions; elsewhere
it is one more source.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinwire.circuit.edges import MATRICES, by_site, keep_masks, matrix_name
from thinwire.compiled.edit import nonzeros
from thinwire.engine.sites.operator import FUNCTIONS, Nonlinearity
from thinwire.model.transformer import Transformer
from thinwire.sites import Node, Site

Span = tuple[int, int]
"""The kept nodes of a site: the place of the first among the circuit's nodes, and the one after the last."""
Pair = tuple[int, int, float, float]
"""Channel of a head: q and k nodes, -1 where held; what q is held at, or multiplied by; what k is held at."""


@dataclass(frozen=True)
class Read:
    """What one norm reads."""

    point: int
    """The residual point; 2·n_layers is before the unembedding."""
    nodes: Span
    gain: Tensor
    """float32 [d_model]"""
    channels: list[int]
    """Its rows: channels that the circuit writes, then `others`, then position channels; none where no node reads."""
    others: list[int]
    """Kept channels of the stream that the circuit does not write."""
    positions: Tensor
    """Position channels that are kept or compete, behind their norm: float32 [context, n]."""
    k: int | None
    """How many channels AbsTopK keeps; None where it is off."""


@dataclass(frozen=True)
class Map:
    """A product with a matrix, on the channels of a site that vary or are kept: its rows."""

    nodes: Span = (0, 0)
    channels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    base: Tensor = field(default_factory=lambda: torch.zeros(1, 0))
    """float32 [table, row]"""
    bars: tuple[Tensor, Tensor] | None = None
    """As `bars_of` gives them; None where AbsTopK is off."""
    weights: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    """float32 [row, source]"""
    sources: Sequence[int] = ()
    nonlinearity: Nonlinearity = "identity"


@dataclass(frozen=True)
class Head:
    """One head of an attention sublayer."""

    values: Span
    pairs: list[Pair]
    """Channels that scores vary with; without a sink, what is the same for all keys of a query makes no difference."""
    score: float
    """What the other channels add to every score."""
    sink: float
    """Minus infinity where there is none."""

    @property
    def massed(self) -> bool:
        """Whether the share of attention that the sink leaves depends on q or k."""
        return self.sink > -math.inf and bool(self.pairs)


def plain(x: Tensor) -> Tensor:
    """A parameter as constants: float32 on the CPU."""
    return x.detach().float().cpu()


def bars_of(constants: Tensor, channels: Tensor, k: int, n_rows: int) -> tuple[Tensor, Tensor]:
    """Magnitude [table, row] and channel [table, row] of the constant of each rank k - 1 - row; rank 0 is the largest.

    `constants` is [table, n], of the channels [n], sorted. A row for which there is no such constant passes; one with
    as many rows ahead as AbsTopK keeps does not.
    """
    ranks = k - 1 - torch.arange(n_rows)
    there = (ranks >= 0) & (ranks < len(channels))
    magnitudes = torch.where(ranks < 0, torch.inf, -1.0).repeat(len(constants), 1)
    found = torch.zeros(magnitudes.shape, dtype=torch.int64)
    if there.any():
        sizes, order = constants.abs().sort(stable=True, dim=-1, descending=True)
        magnitudes[:, there] = sizes[:, ranks[there]]
        found[:, there] = channels[order[:, ranks[there]]]
    return magnitudes, found


class Compiler:
    """What of a circuit varies; `cut` is the model with only the circuit's wires."""

    def __init__(self, nodes: Sequence[Node], means: Mapping[Site, Tensor], cut: Transformer) -> None:
        """`nodes` are sorted, so that those of a site are next to each other."""
        self.cut, self.config, self.nodes = cut, cut.config, nodes
        self.kept, self.keep = by_site(nodes), keep_masks(nodes, cut.config)
        self.places = {node: place for place, node in enumerate(nodes)}
        self.means = {site: plain(mean) for site, mean in means.items()}
        deltas = (kept for site, kept in self.kept.items() if site.kind.endswith("resid_delta"))
        self.written = sorted({channel for kept in deltas for channel in kept})
        """Channels of the stream that kept nodes write."""
        self.points = sorted({site.sublayer for site in self.kept})
        """The sublayers that keep nodes."""

    def span(self, site: Site) -> Span:
        """Places of the kept nodes of a site."""
        kept = self.kept.get(site, [])
        first = self.places[Node(site, kept[0])] if kept else 0
        return first, first + len(kept)

    def held(self, site: Site) -> Tensor:
        """What removed nodes of a site are held at, float32 [width], with zeros for kept ones."""
        return self.means[site].masked_fill(self.keep[site], 0)

    def k(self, site: Site) -> int | None:
        """How many channels AbsTopK keeps at a site; None where it is off."""
        width = site.width(self.config)
        k = self.config.n_active(site.kind, width)
        return None if k == width else k

    def read(self, point: int) -> Read:
        """What the norm of a sublayer reads, or with 2·n_layers the last one."""
        if point == 2 * self.config.n_layers:
            return Read(point, (0, 0), plain(self.cut.norm.weight), self.written, [], torch.zeros(1, 0), None)
        site, d_model = Site.of(point // 2, "mlp.act_in" if point % 2 else "attn.act_in"), self.config.d_model
        norm, kept, k = self.cut.sublayers[point].norm, self.kept.get(site, []), self.k(site)
        others = [channel for channel in kept if channel < d_model and channel not in self.written]
        competing = range(d_model, self.config.d_in) if kept and k is not None else kept
        positions = [channel for channel in competing if channel >= d_model]
        channels = [*self.written, *others, *positions] if kept else []
        values = torch.zeros(1, 0)
        if positions:
            norm_pos = self.cut.sublayers[point].norm_pos
            assert norm_pos is not None
            assert self.cut.positions is not None
            values = plain(norm_pos(self.cut.positions))[:, [channel - d_model for channel in positions]]
        return Read(point, self.span(site), plain(norm.weight), channels, others, values, k)

    def held_delta(self, point: int) -> Tensor:
        """What removed nodes of a sublayer add to the residual stream, float32 [d_model]."""
        return self.held(Site.of(point // 2, "mlp.resid_delta" if point % 2 else "attn.resid_delta"))

    def maps(self, point: int, heads: list[Head]) -> list[Map]:
        """The four maps of a sublayer, in the order of the kernel."""
        if point % 2:
            return [self._map("w_in", point), Map(), Map(), self._map("w_out", point)]
        return [*(self._map(name, point) for name in ("w_q", "w_k", "w_v")), self._attention_out(point, heads)]

    def product(self, name: str, x: Tensor) -> Tensor:
        """What a linear map gives, its bias included: float32 [n, in] to [n, out]."""
        return plain(self.cut.get_submodule(name)(x.to(self.cut.norm.weight)[None])[0])

    def _map(
        self, name: str, point: int, held: Tensor | None = None, sources: Span | None = None, more: Tensor | None = None
    ) -> Map:
        """The map of a matrix, by default from the nodes of the site that it reads.

        `held` [table, width] is what that site is held at, `sources` the places of its kept channels in the source row,
        and `more` [n, width of the target] the weights of n further sources, which are behind them.
        """
        source, target = (Site.of(point // 2, kind) for kind in MATRICES[name])
        if target not in self.kept:
            return Map()
        name, k, kept = matrix_name(point // 2, name), self.k(target), self.kept.get(source, [])
        constant = self.product(name, self.held(source)[None] if held is None else held)
        more = constant[:0] if more is None else more
        wires = nonzeros(self.cut, name, None if k is not None else self.keep[target], self.keep[source])
        varies = self.keep[target] | more.any(0) if k is not None else self.keep[target].clone()
        varies[wires.rows] = True
        rows, rest = varies.nonzero()[:, 0], (~varies).nonzero()[:, 0]
        weights = torch.zeros(len(rows), len(kept))
        columns = torch.searchsorted(torch.tensor(kept, dtype=torch.int64), wires.columns)
        weights[torch.searchsorted(rows, wires.rows), columns] = plain(wires.values)
        nonlinearity = self.config.activation if target.kind == "mlp.post_act" else "identity"
        fixed = FUNCTIONS[nonlinearity](constant[:, rest])
        bars = None if k is None else bars_of(fixed, rest, k, len(rows))
        weights = torch.cat([weights, more[:, rows].T], 1)
        places = range(*(sources or self.span(source)))
        return Map(self.span(target), rows, constant[:, rows], bars, weights, places, nonlinearity)

    def heads(self, point: int) -> list[Head]:
        """The heads of a sublayer; none of an MLP, nor where attention writes nothing that is kept."""
        q, k, v, delta = (Site.of(point // 2, f"attn.{kind}") for kind in ("q", "k", "v", "resid_delta"))
        if point % 2 or delta not in self.kept:
            return []
        d_head, first = self.config.d_head, self.span(v)[0]
        sinks = self._sinks(point)
        varying = set(self.kept.get(k, [])).union(self.kept.get(q, []) if self.config.sink else [])
        held_q, held_k = self.means[q] * d_head**-0.5, self.means[k]
        others = (held_q * held_k).index_fill(0, torch.tensor(sorted(varying), dtype=torch.int64), 0)
        scores = others.unflatten(0, (-1, d_head)).sum(1).tolist()
        pairs: list[list[Pair]] = [[] for _ in scores]
        for channel in sorted(varying):
            ends = self.places.get(Node(q, channel), -1), self.places.get(Node(k, channel), -1)
            factor = held_q[channel].item() if ends[0] < 0 else d_head**-0.5
            pairs[channel // d_head].append((*ends, factor, held_k[channel].item()))
        heads, end = [], first
        for index, (own, score, sink) in enumerate(zip(pairs, scores, sinks.tolist(), strict=True)):
            start, end = end, end + sum(channel // d_head == index for channel in self.kept.get(v, []))
            heads.append(Head((start, end), own, score, sink))
        return heads

    def _sinks(self, point: int) -> Tensor:
        """float32 [head], minus infinity without sinks."""
        if self.config.sink:
            return plain(self.cut.get_parameter(f"blocks.{point // 2}.attn.sink"))
        return torch.full((self.config.n_heads,), -torch.inf)

    def _attention_out(self, point: int, heads: list[Head]) -> Map:
        """The map of w_o, whose sources are the columns that heads mix: kept v, then masses."""
        v = Site.of(point // 2, "attn.v")
        n_values = len(self.kept.get(v, []))
        if not (self.config.sink and heads):
            return self._map("w_o", point, sources=(0, n_values))
        name = matrix_name(point // 2, "w_o")
        by_head = self.held(v).unflatten(0, (len(heads), -1))
        keys = torch.arange(1, self.config.context + 1)[:, None].log()
        masses = torch.sigmoid(keys + torch.tensor([head.score for head in heads]) - self._sinks(point))  # [pos, head]
        massed = torch.tensor([head.massed for head in heads])
        held = (masses.masked_fill(massed, 0)[..., None] * by_head).flatten(1)
        alone = (torch.eye(len(heads))[massed][..., None] * by_head).flatten(1)  # [massed, width]
        more = self.product(name, alone) - self.product(name, torch.zeros_like(alone))
        return self._map("w_o", point, held, (0, n_values + len(alone)), more)

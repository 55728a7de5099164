"""The parts of a circuit that vary: reads of the stream, products with matrices, heads. Constants are folded.

Everything is read from the model of `Circuit.cut_model`, in which dropped edges are biases already. A removed node is a
constant, so its contribution to a channel is added to the channel's base. What remains are the edges out of kept nodes,
including those to removed nodes, which compete in AbsTopK. With a sink, attention passes on only a share of the
constant v, the *mass* of its head. Where no q or k is kept, the mass follows from the position, and bases have a table
of positions; elsewhere the mass is one more source.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from thinwire.circuit.edges import MATRICES, by_site, keep_masks, matrix_name
from thinwire.compiled.edit import nonzeros
from thinwire.engine.sites.operator import FUNCTIONS, Nonlinearity
from thinwire.model.transformer import Transformer
from thinwire.sites import Node, Site


@dataclass(frozen=True)
class Span:
    """Consecutive indices into the circuit's nodes: the kept nodes of a site."""

    first: int = 0
    end: int = 0
    """The one after the last."""

    def __len__(self) -> int:
        return self.end - self.first

    @property
    def range(self) -> range:
        """The indices."""
        return range(self.first, self.end)


class Pair(NamedTuple):
    """A channel of a head in which q, k or both vary."""

    q: int
    """Index of the node, -1 where q is constant."""
    k: int
    """Index of the node, -1 where k is constant."""
    q_factor: float
    """The constant q, or a factor on the node's value; both include the scale of attention."""
    k_constant: float
    """The constant k; unused where k is a node."""


class Bars(NamedTuple):
    """The constants that a varying channel has to beat in AbsTopK; row i is for i varying channels ahead of it."""

    magnitude: Tensor
    """float32 [table, row]"""
    channel: Tensor
    """int64 [table, row]"""


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

    nodes: Span = field(default_factory=Span)
    channels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64, device="cpu"))
    base: Tensor = field(default_factory=lambda: _zeros(1, 0))
    """float32 [table, row]"""
    bars: Bars | None = None
    """None where AbsTopK is off."""
    weights: Tensor = field(default_factory=lambda: _zeros(0, 0))
    """float32 [row, source]"""
    sources: Sequence[int] = ()
    nonlinearity: Nonlinearity = "identity"


@dataclass(frozen=True)
class Head:
    """One head of an attention sublayer."""

    values: Span
    pairs: list[Pair]
    """Channels that scores depend on; without a sink, a term that all keys of a query share makes no difference."""
    score: float
    """What the constant channels add to every score."""
    sink: float
    """Minus infinity where there is none."""

    @property
    def massed(self) -> bool:
        """Whether the share of attention that the sink leaves depends on q or k."""
        return self.sink > -math.inf and bool(self.pairs)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float32, device="cpu")


def plain(x: Tensor) -> Tensor:
    """A parameter of any shape as a constant: float32 on the CPU, without gradient."""
    return x.detach().float().cpu()


def bars_of(constants: Tensor, channels: Tensor, k: int, n_rows: int) -> Bars:
    """Bars [table, n_rows]: at row i the constant of rank k - 1 - i, where rank 0 is the largest magnitude.

    `constants` is float32 [table, n], of the channels int64 [n], sorted. Where there are fewer constants the bar is
    below every magnitude; from row k on it is infinite.
    """
    ranks = k - 1 - torch.arange(n_rows, dtype=torch.int64, device="cpu")
    there = (ranks >= 0) & (ranks < len(channels))
    magnitudes = (_zeros(n_rows) - 1).masked_fill(ranks < 0, torch.inf).repeat(len(constants), 1)
    found = torch.zeros(magnitudes.shape, dtype=torch.int64, device="cpu")
    if there.any():
        sizes, order = constants.abs().sort(stable=True, dim=-1, descending=True)
        magnitudes[:, there] = sizes[:, ranks[there]]
        found[:, there] = channels[order[:, ranks[there]]]
    return Bars(magnitudes, found)


class Compiler:
    """Finds the parts of a circuit that vary; `cut` is the model with only the circuit's edges."""

    def __init__(self, nodes: Sequence[Node], means: Mapping[Site, Tensor], cut: Transformer) -> None:
        """`nodes` are sorted, so that those of a site are consecutive; `means[site]` is [width]."""
        self.cut, self.config, self.nodes = cut, cut.config, nodes
        self.kept, self.keep = by_site(nodes), keep_masks(nodes, cut.config)
        self.index_of = {node: index for index, node in enumerate(nodes)}
        self.means = {site: plain(mean) for site, mean in means.items()}
        deltas = (kept for site, kept in self.kept.items() if site.kind.endswith("resid_delta"))
        self.written = sorted({channel for kept in deltas for channel in kept})
        """Channels of the stream that kept nodes write."""
        self.points = sorted({site.sublayer for site in self.kept})
        """The sublayers that keep nodes."""

    def span(self, site: Site) -> Span:
        """Indices of the kept nodes of a site."""
        kept = self.kept.get(site, [])
        first = self.index_of[Node(site, kept[0])] if kept else 0
        return Span(first, first + len(kept))

    def constants(self, site: Site) -> Tensor:
        """Values that the removed nodes of a site are ablated to, float32 [width], with zeros for kept ones."""
        return self.means[site].masked_fill(self.keep[site], 0)

    def k(self, site: Site) -> int | None:
        """How many channels AbsTopK keeps at a site; None where it is off."""
        width = site.width(self.config)
        k = self.config.n_active(site.kind, width)
        return None if k == width else k

    def read(self, point: int) -> Read:
        """What the norm of a sublayer reads, or with 2·n_layers the last one."""
        if point == 2 * self.config.n_layers:
            return Read(point, Span(), plain(self.cut.norm.weight), self.written, [], _zeros(1, 0), None)
        site, d_model = Site.of(point // 2, "mlp.act_in" if point % 2 else "attn.act_in"), self.config.d_model
        norm, kept, k = self.cut.sublayers[point].norm, self.kept.get(site, []), self.k(site)
        others = [channel for channel in kept if channel < d_model and channel not in self.written]
        competing = range(d_model, self.config.d_in) if kept and k is not None else kept
        positions = [channel for channel in competing if channel >= d_model]
        channels = [*self.written, *others, *positions] if kept else []
        values = _zeros(1, 0)
        if positions:
            norm_pos = self.cut.sublayers[point].norm_pos
            assert norm_pos is not None
            assert self.cut.positions is not None
            values = plain(norm_pos(self.cut.positions))[:, [channel - d_model for channel in positions]]
        return Read(point, self.span(site), plain(norm.weight), channels, others, values, k)

    def constant_delta(self, point: int) -> Tensor:
        """What removed nodes of a sublayer add to the residual stream, float32 [d_model]."""
        return self.constants(Site.of(point // 2, "mlp.resid_delta" if point % 2 else "attn.resid_delta"))

    def maps(self, point: int, heads: list[Head]) -> list[Map]:
        """The four maps of a sublayer, in the order of the kernel."""
        if point % 2:
            return [self._map("w_in", point), Map(), Map(), self._map("w_out", point)]
        return [*(self._map(name, point) for name in ("w_q", "w_k", "w_v")), self._attention_out(point, heads)]

    def product(self, name: str, x: Tensor) -> Tensor:
        """The output of a linear map with its bias: float32 [n, in] to [n, out]."""
        return plain(self.cut.get_submodule(name)(x.to(self.cut.norm.weight)[None])[0])

    def _map(
        self,
        name: str,
        point: int,
        constants: Tensor | None = None,
        sources: Span | None = None,
        more: Tensor | None = None,
    ) -> Map:
        """The map of a matrix, by default from the nodes of the site that it reads.

        `constants` [table, width] are those of that site, `sources` the indices of its kept channels in the source row,
        and `more` [n, width of the target] the weights of n further sources, which come after them.
        """
        source, target = (Site.of(point // 2, kind) for kind in MATRICES[name])
        if target not in self.kept:
            return Map()
        name, k, kept = matrix_name(point // 2, name), self.k(target), self.kept.get(source, [])
        constant = self.product(name, self.constants(source)[None] if constants is None else constants)
        more = constant[:0] if more is None else more
        edges = nonzeros(self.cut, name, None if k is not None else self.keep[target], self.keep[source])
        varies = self.keep[target] | more.any(0) if k is not None else self.keep[target].clone()
        varies[edges.rows] = True
        rows, rest = varies.nonzero()[:, 0], (~varies).nonzero()[:, 0]
        weights = _zeros(len(rows), len(kept))
        columns = torch.searchsorted(torch.tensor(kept, dtype=torch.int64, device="cpu"), edges.columns)
        weights[torch.searchsorted(rows, edges.rows), columns] = plain(edges.values)
        nonlinearity = self.config.activation if target.kind == "mlp.post_act" else "identity"
        fixed = FUNCTIONS[nonlinearity](constant[:, rest])
        bars = None if k is None else bars_of(fixed, rest, k, len(rows))
        weights = torch.cat([weights, more[:, rows].T], 1)
        indices = (sources or self.span(source)).range
        return Map(self.span(target), rows, constant[:, rows], bars, weights, indices, nonlinearity)

    def heads(self, point: int) -> list[Head]:
        """The heads of a sublayer; none of an MLP, nor where attention writes nothing that is kept."""
        q, k, v, delta = (Site.of(point // 2, f"attn.{kind}") for kind in ("q", "k", "v", "resid_delta"))
        if point % 2 or delta not in self.kept:
            return []
        d_head, first = self.config.d_head, self.span(v).first
        sinks = self._sinks(point)
        varying = set(self.kept.get(k, [])).union(self.kept.get(q, []) if self.config.sink else [])
        q_means, k_means = self.means[q] * d_head**-0.5, self.means[k]
        others = (q_means * k_means).index_fill(0, torch.tensor(sorted(varying), dtype=torch.int64, device="cpu"), 0)
        scores = others.unflatten(0, (-1, d_head)).sum(1).tolist()
        pairs: list[list[Pair]] = [[] for _ in scores]
        for channel in sorted(varying):
            at_q, at_k = self.index_of.get(Node(q, channel), -1), self.index_of.get(Node(k, channel), -1)
            factor = q_means[channel].item() if at_q < 0 else d_head**-0.5
            pairs[channel // d_head].append(Pair(at_q, at_k, factor, k_means[channel].item()))
        heads, end = [], first
        for index, (own, score, sink) in enumerate(zip(pairs, scores, sinks.tolist(), strict=True)):
            start, end = end, end + sum(channel // d_head == index for channel in self.kept.get(v, []))
            heads.append(Head(Span(start, end), own, score, sink))
        return heads

    def _sinks(self, point: int) -> Tensor:
        """float32 [head], minus infinity without sinks."""
        if self.config.sink:
            return plain(self.cut.get_parameter(f"blocks.{point // 2}.attn.sink"))
        return torch.full((self.config.n_heads,), -torch.inf, dtype=torch.float32, device="cpu")

    def _attention_out(self, point: int, heads: list[Head]) -> Map:
        """The map of w_o, whose sources are the mixed columns of the heads: kept v, then masses."""
        v = Site.of(point // 2, "attn.v")
        n_values = len(self.kept.get(v, []))
        if not (self.config.sink and heads):
            return self._map("w_o", point, sources=Span(0, n_values))
        name = matrix_name(point // 2, "w_o")
        by_head = self.constants(v).unflatten(0, (len(heads), -1))
        keys = torch.arange(1, self.config.context + 1, dtype=torch.float32, device="cpu")[:, None].log()
        scores = torch.tensor([head.score for head in heads], dtype=torch.float32, device="cpu")
        masses = torch.sigmoid(keys + scores - self._sinks(point))  # [pos, head]
        massed = torch.tensor([head.massed for head in heads], dtype=torch.bool, device="cpu")
        constants = (masses.masked_fill(massed, 0)[..., None] * by_head).flatten(1)
        own = torch.eye(len(heads), dtype=torch.float32, device="cpu")[massed]
        alone = (own[..., None] * by_head).flatten(1)  # [massed, width]
        more = self.product(name, alone) - self.product(name, torch.zeros_like(alone))
        return self._map("w_o", point, constants, Span(0, n_values + len(alone)), more)

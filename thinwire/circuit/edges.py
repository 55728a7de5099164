"""The edges of a circuit: nonzero weights between its nodes, and those that join it to tokens and logits."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from thinwire.compiled.edit import Nonzeros, nonzeros
from thinwire.model.transformer import Transformer
from thinwire.sites import Node, Shape, Site, all_sites

MATRICES = {
    "w_q": ("attn.act_in", "attn.q"),
    "w_k": ("attn.act_in", "attn.k"),
    "w_v": ("attn.act_in", "attn.v"),
    "w_o": ("attn.v", "attn.resid_delta"),
    "w_in": ("mlp.act_in", "mlp.post_act"),
    "w_out": ("mlp.post_act", "mlp.resid_delta"),
}
"""Matrices of a layer, with the kinds of site that they read and write; before `w_o`, attention mixes `v`."""
JOINED = frozenset(MATRICES.values())
"""Pairs of kinds of site that a matrix joins."""


class EdgeEnds(NamedTuple):
    """The two nodes that an edge joins."""

    source: Node
    target: Node


@dataclass(frozen=True)
class Edge:
    """A nonzero weight from one node to another."""

    source: Node
    target: Node
    weight: float

    @property
    def ends(self) -> EdgeEnds:
        """Its nodes."""
        return EdgeEnds(self.source, self.target)


class Matrix(NamedTuple):
    """A weight matrix of a layer."""

    name: str
    """Of its module."""
    source: Site
    target: Site


class MatrixEdges(NamedTuple):
    """The nonzero weights of a matrix between kept nodes."""

    name: str
    """Of the matrix's module."""
    source: Site
    target: Site
    found: Nonzeros
    """Rows are indices in `target`, columns in `source`."""


@dataclass(frozen=True)
class TokenEdge:
    """A nonzero embedding weight (a token writes a node's channel) or unembedding weight (a channel writes a logit)."""

    token: int
    channel: int
    """Residual channel."""
    weight: float


def by_site(nodes: Iterable[Node]) -> dict[Site, list[int]]:
    """Sorted channel indices of each site that has nodes, sites in the order of the forward pass."""
    grouped: dict[Site, list[int]] = {}
    for node in sorted(nodes):
        grouped.setdefault(node.site, []).append(node.index)
    return grouped


def keep_masks(nodes: Iterable[Node], shape: Shape) -> dict[Site, Tensor]:
    """Which nodes stay: bool [width] for every site."""
    masks = {site: torch.zeros(site.width(shape), dtype=torch.bool, device="cpu") for site in all_sites(shape)}
    grouped: dict[Site, list[int]] = {}
    for node in nodes:  # not sorted: pruning calls this for every candidate
        grouped.setdefault(node.site, []).append(node.index)
    for site, indices in grouped.items():
        masks[site][indices] = True
    return masks


def joined(ends: EdgeEnds) -> bool:
    """Whether some matrix has a weight from the source to the target."""
    source, target = (node.site for node in ends)
    return source.layer == target.layer and (source.kind, target.kind) in JOINED


def matrix_name(layer: int, name: str) -> str:
    """Name of the module of one of MATRICES in a layer: `blocks.0.attn.w_q`."""
    return f"blocks.{layer}.{MATRICES[name][1].partition('.')[0]}.{name}"


def matrices(shape: Shape) -> Iterator[Matrix]:
    """Every matrix of the layers, in the order of the forward pass."""
    for layer in range(shape.n_layers):
        for name, (source, target) in MATRICES.items():
            yield Matrix(matrix_name(layer, name), Site.of(layer, source), Site.of(layer, target))


def weights_between(model: Transformer, keep: Mapping[Site, Tensor]) -> Iterator[MatrixEdges]:
    """The nonzero weights of every matrix between kept nodes: `keep[site]` is bool [width], missing sites keep none."""
    for name, source, target in matrices(model.config):
        if source in keep and target in keep:
            yield MatrixEdges(name, source, target, nonzeros(model, name, keep[target], keep[source]))


def weight_edges(model: Transformer, nodes: Iterable[Node]) -> Iterator[Edge]:
    """Every nonzero weight between two of the nodes, in the order of the forward pass."""
    for _, source, target, found in weights_between(model, keep_masks(nodes, model.config)):
        ends = found.rows.tolist(), found.columns.tolist()
        for row, column, weight in zip(*ends, found.values.tolist(), strict=True):
            yield Edge(Node(source, column), Node(target, row), weight)


def count_edges(model: Transformer, keep: dict[Site, Tensor]) -> int:
    """Number of nonzero weights between kept nodes; `keep[site]` is bool [width]. Missing sites keep nothing."""
    return sum(len(matrix.found.values) for matrix in weights_between(model, keep))


def channel_links(nodes: Iterable[Node], d_model: int) -> Iterator[tuple[Node, Node]]:
    """Pairs of a node that writes a residual channel and a later node that reads the same channel."""
    ordered = sorted(nodes)
    writers = [node for node in ordered if node.site.kind.endswith("resid_delta")]
    readers = [node for node in ordered if node.site.kind.endswith("act_in") and node.index < d_model]
    for writer in writers:
        for reader in readers:
            if reader.index == writer.index and reader.site.sublayer > writer.site.sublayer:
                yield writer, reader


def embedding_edges(model: Transformer, nodes: Iterable[Node], tokens: Iterable[int]) -> list[TokenEdge]:
    """Nonzero embedding weights of the given tokens on channels that some node reads."""
    d_model = model.config.d_model
    channels = {node.index for node in nodes if node.site.kind.endswith("act_in") and node.index < d_model}
    return _token_edges(model, "embedding", tokens, channels)


def unembedding_edges(model: Transformer, nodes: Iterable[Node], tokens: Iterable[int]) -> list[TokenEdge]:
    """Nonzero unembedding weights to the given tokens from channels that some node writes."""
    channels = {node.index for node in nodes if node.site.kind.endswith("resid_delta")}
    return _token_edges(model, "unembedding", tokens, channels)


def _token_edges(model: Transformer, name: str, tokens: Iterable[int], channels: set[int]) -> list[TokenEdge]:
    rows, columns = (
        torch.zeros(model.config.vocab_size, dtype=torch.bool, device="cpu"),
        torch.zeros(model.config.d_model, dtype=torch.bool, device="cpu"),
    )
    rows[list(tokens)] = True
    columns[list(channels)] = True
    found = nonzeros(model, name, rows, columns)
    ends = found.rows.tolist(), found.columns.tolist(), found.values.tolist()
    return [TokenEdge(*end) for end in zip(*ends, strict=True)]

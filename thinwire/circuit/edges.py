"""The wires of a circuit: nonzero weights that join two of its nodes, and the token wires at both ends."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.model.transformer import Transformer
from thinwire.sites import Node, Shape, Site, all_sites

Wire = tuple[Node, Node]
"""Source and target of a weight."""

MATRICES = {
    "w_q": ("attn.act_in", "attn.q"),
    "w_k": ("attn.act_in", "attn.k"),
    "w_v": ("attn.act_in", "attn.v"),
    "w_o": ("attn.v", "attn.resid_delta"),
    "w_in": ("mlp.act_in", "mlp.post_act"),
    "w_out": ("mlp.post_act", "mlp.resid_delta"),
}
"""Matrices of a layer, with the kinds of site they read and write; `v` is mixed over positions on the way."""
JOINED = frozenset(MATRICES.values())
"""Pairs of kinds of site that a matrix joins."""


@dataclass(frozen=True)
class Edge:
    """A nonzero weight from one node to another."""

    source: Node
    target: Node
    weight: float


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
    masks = {site: torch.zeros(site.width(shape), dtype=torch.bool) for site in all_sites(shape)}
    for site, indices in by_site(nodes).items():
        masks[site][indices] = True
    return masks


def joined(wire: Wire) -> bool:
    """Whether some matrix has a weight from the first node to the second."""
    source, target = (node.site for node in wire)
    return source.layer == target.layer and (source.kind, target.kind) in JOINED


def matrix_name(layer: int, name: str) -> str:
    """The module that holds one of MATRICES in a layer: `blocks.0.attn.w_q`."""
    return f"blocks.{layer}.{MATRICES[name][1].partition('.')[0]}.{name}"


def matrix_at(model: Transformer, layer: int, name: str) -> Tensor:
    """The weight [target width, source width] of one of MATRICES in a layer."""
    return model.get_parameter(f"{matrix_name(layer, name)}.weight").detach()


def matrices(model: Transformer) -> Iterator[tuple[str, Site, Site, Tensor]]:
    """Module name, source site, target site and weight [target width, source width] of every matrix of the layers."""
    for layer in range(model.config.n_layers):
        for name, (source, target) in MATRICES.items():
            yield (
                matrix_name(layer, name),
                Site.of(layer, source),
                Site.of(layer, target),
                matrix_at(model, layer, name),
            )


def weight_edges(model: Transformer, nodes: Iterable[Node]) -> Iterator[Edge]:
    """Every nonzero weight between two of the nodes, in the order of the forward pass."""
    kept = by_site(nodes)
    for _, source, target, matrix in matrices(model):
        if source in kept and target in kept:
            weights = matrix[kept[target]][:, kept[source]]
            for row, column in weights.nonzero().tolist():
                ends = Node(source, kept[source][column]), Node(target, kept[target][row])
                yield Edge(*ends, weights[row, column].item())


def count_edges(model: Transformer, keep: dict[Site, Tensor]) -> int:
    """Number of nonzero weights between kept nodes; `keep[site]` is bool [width]. Missing sites keep nothing."""
    total = 0
    for _, source, target, matrix in matrices(model):
        if source in keep and target in keep:
            total += int(matrix[keep[target]][:, keep[source]].count_nonzero())
    return total


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
    return _token_edges(model.embedding.weight, tokens, channels)


def unembedding_edges(model: Transformer, nodes: Iterable[Node], tokens: Iterable[int]) -> list[TokenEdge]:
    """Nonzero unembedding weights to the given tokens from channels that some node writes."""
    channels = {node.index for node in nodes if node.site.kind.endswith("resid_delta")}
    return _token_edges(model.unembedding.weight, tokens, channels)


def _token_edges(matrix: Tensor, tokens: Iterable[int], channels: set[int]) -> list[TokenEdge]:
    rows, columns = sorted(set(tokens)), sorted(channels)
    if not rows or not columns:
        return []
    weights = matrix.detach()[torch.tensor(rows)][:, torch.tensor(columns)]
    return [TokenEdge(rows[r], columns[c], weights[r, c].item()) for r, c in weights.nonzero().tolist()]

"""Edges: the set by brute force, and the effect each one predicts against the effect of cutting it."""

import pytest
import torch
from planted import matrix_at
from tiny import tiny_model, tiny_prompts
from torch import Tensor

from thinwire.circuit import count_edges, embedding_edges, unembedding_edges, weight_edges
from thinwire.circuit.edges import MATRICES, by_site, channel_links
from thinwire.model import Transformer
from thinwire.model.attention import attention_pattern
from thinwire.model.taps import record
from thinwire.sites import Node, Site, all_sites

FULL_NAMES = {name: f"{'attn' if name in ('w_q', 'w_k', 'w_v', 'w_o') else 'mlp'}.{name}" for name in MATRICES}


@pytest.fixture(params=["none", "concatenated"])
def model(request: pytest.FixtureRequest) -> Transformer:
    return tiny_model(density=0.15, positions=request.param).requires_grad_(False)


def some_nodes(model: Transformer, share: float = 0.4) -> list[Node]:
    generator = torch.Generator().manual_seed(1)
    every = [Node(site, i) for site in all_sites(model.config) for i in range(site.width(model.config))]
    return [node for node, u in zip(every, torch.rand(len(every), generator=generator), strict=True) if u < share]


def brute_force(model: Transformer, nodes: list[Node]) -> dict[tuple[Node, Node], float]:
    """Every pair of nodes, every matrix."""
    weights = dict(model.named_parameters())
    found = {}
    for source in nodes:
        for target in nodes:
            for name, (reads, writes) in MATRICES.items():
                joins = source.site.layer == target.site.layer and (source.site.kind, target.site.kind) == (
                    reads,
                    writes,
                )
                if joins:
                    weight = weights[f"blocks.{source.site.layer}.{FULL_NAMES[name]}.weight"]
                    value = weight[target.index, source.index].item()
                    if value != 0:
                        found[source, target] = value
    return found


def test_edges_are_all_nonzero_weights_between_nodes(model: Transformer) -> None:
    nodes = some_nodes(model)
    edges = list(weight_edges(model, reversed(nodes)))
    expected = brute_force(model, nodes)
    assert {(edge.source, edge.target): edge.weight for edge in edges} == expected
    assert len(edges) == len(expected) > 20
    keep = {site: torch.zeros(site.width(model.config), dtype=torch.bool) for site in all_sites(model.config)}
    for node in nodes:
        keep[node.site][node.index] = True
    assert count_edges(model, keep) == len(expected)


def test_edges_of_all_nodes_are_all_weights_of_the_layers(model: Transformer) -> None:
    every = some_nodes(model, share=2)
    layers = sum(
        int(parameter.count_nonzero())
        for name, parameter in model.named_parameters()
        if name.startswith("blocks.") and name.endswith(tuple(f"{matrix}.weight" for matrix in MATRICES))
    )
    assert len(list(weight_edges(model, every))) == layers
    assert list(weight_edges(model, [])) == []
    assert count_edges(model, {}) == 0


def measured(model: Transformer, layer: int, matrix: str, tokens: Tensor) -> Tensor:
    """Output of one matrix [batch, pos, width], before its site."""
    seen: list[Tensor] = []
    linear = model.get_submodule(f"blocks.{layer}.{FULL_NAMES[matrix]}")
    handle = linear.register_forward_hook(lambda module, args, out: seen.append(out))
    model(tokens)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("matrix", MATRICES)
def test_predicted_effect_of_a_edge_is_the_effect_of_cutting_it(matrix: str) -> None:
    """Cutting one weight takes weight × source activation from the target's input; v is mixed over positions first."""
    model = tiny_model(density=0.3, sink=True).double().requires_grad_(False)
    tokens = tiny_prompts(model)
    seen = record()
    model(tokens, tap=seen)
    edges = [
        e
        for e in weight_edges(model, some_nodes(model, 2))
        if (e.source.site.kind, e.target.site.kind) == MATRICES[matrix]
    ]
    for edge in edges[:: len(edges) // 8]:
        layer = edge.source.site.layer
        source = seen.values[edge.source.site][..., edge.source.index]
        if matrix == "w_o":
            source = mixed(model, layer, seen.values, edge.source.index)
        before = measured(model, layer, matrix, tokens)
        weights = matrix_at(model, layer, matrix)
        weights[edge.target.index, edge.source.index] = 0
        after = measured(model, layer, matrix, tokens)
        weights[edge.target.index, edge.source.index] = edge.weight
        expected = torch.zeros_like(before)
        expected[..., edge.target.index] = edge.weight * source
        torch.testing.assert_close(before - after, expected, rtol=1e-9, atol=1e-12)
        assert expected.abs().max() > 0 or source.abs().max() == 0


def mixed(model: Transformer, layer: int, seen: dict[Site, Tensor], channel: int) -> Tensor:
    """A channel of v as the output matrix reads it: averaged over positions by the pattern of its head."""
    attn = model.blocks[layer].attn
    heads = [
        seen[Site.of(layer, f"attn.{kind}")].unflatten(-1, (attn.n_heads, attn.d_head)).transpose(1, 2)  # pyright: ignore
        for kind in "qk"
    ]
    pattern = attention_pattern(heads[0], heads[1], attn.sink)  # pyright: ignore
    values = seen[Site.of(layer, "attn.v")][..., channel]
    return torch.einsum("bqk,bk->bq", pattern[:, channel // model.config.d_head], values)


def test_channel_links_by_brute_force(model: Transformer) -> None:
    nodes = some_nodes(model)
    writes = {"attn.resid_delta": 0, "mlp.resid_delta": 1}
    reads = {"attn.act_in": 0, "mlp.act_in": 1}
    expected = {
        (writer, reader)
        for writer in nodes
        for reader in nodes
        if writer.site.kind in writes
        and reader.site.kind in reads
        and writer.index == reader.index
        and 2 * writer.site.layer + writes[writer.site.kind] < 2 * reader.site.layer + reads[reader.site.kind]
    }
    links = list(channel_links(nodes, model.config.d_model))
    assert set(links) == expected
    assert len(links) == len(expected) > 5


def test_position_channels_have_no_writer() -> None:
    """Channel 16 and up of an input hold the position."""
    writer, reader = Node(Site.parse("0.attn.resid_delta"), 3), Node(Site.parse("0.mlp.act_in"), 3)
    place = Node(Site.parse("0.mlp.act_in"), 16)
    assert list(channel_links([writer, reader, place], 16)) == [(writer, reader)]
    model = tiny_model(positions="concatenated")
    assert embedding_edges(model, [place], [1, 2]) == []


def test_token_edges_by_brute_force(model: Transformer) -> None:
    nodes = some_nodes(model, 0.2)
    tokens = [7, 3, 3, 21]
    read = {n.index for n in nodes if n.site.kind.endswith("act_in") and n.index < 16}
    written = {n.index for n in nodes if n.site.kind.endswith("resid_delta")}
    for edges, matrix, channels in (
        (embedding_edges(model, nodes, tokens), model.embedding.weight, read),
        (unembedding_edges(model, nodes, tokens), model.unembedding.weight, written),
    ):
        expected = {(t, c): matrix[t, c].item() for t in set(tokens) for c in channels if matrix[t, c] != 0}
        assert {(edge.token, edge.channel): edge.weight for edge in edges} == expected
        assert len(edges) == len(expected) > 0
    assert embedding_edges(model, nodes, []) == []
    assert unembedding_edges(model, [], tokens) == []


def test_nodes_group_by_site_in_order() -> None:
    late, early = Site.parse("1.attn.q"), Site.parse("0.mlp.act_in")
    assert by_site([Node(late, 5), Node(early, 2), Node(late, 1)]) == {early: [2], late: [1, 5]}
    assert list(by_site([Node(late, 5), Node(early, 2)])) == [early, late]

"""Cut edges: ablated to their mean contribution, checked against removed nodes and against hand-made passes."""

from dataclasses import replace

import pytest
import torch
from tiny import tiny_model, tiny_prompts
from torch import Tensor

from thinwire.circuit import Circuit, EdgeEnds, weight_edges
from thinwire.circuit.edges import MATRICES, matrices
from thinwire.errors import UserError
from thinwire.model import Transformer
from thinwire.model.taps import record
from thinwire.sites import Node, Site, all_sites

SHAPES = {
    "plain": {},
    "no biases": {"biases": False},
    "concatenated": {"positions": "concatenated"},
    "relu": {"activation": "relu", "active_residual": True},
}


@pytest.fixture(params=SHAPES)
def model(request: pytest.FixtureRequest) -> Transformer:
    return tiny_model(density=0.3, **SHAPES[request.param]).requires_grad_(False)


def means_of(model: Transformer) -> dict[Site, Tensor]:
    seen = record()
    model(tiny_prompts(model, rows=8, seed=5), tap=seen)
    return {site: x.mean((0, 1)) for site, x in seen.values.items()}


def circuit_of(model: Transformer, share: float = 1.0, all_of: tuple[str, ...] = ()) -> Circuit:
    """A random part of the nodes, with all nodes at sites of the kinds `all_of`."""
    generator = torch.Generator().manual_seed(1)
    every = [Node(site, i) for site in all_sites(model.config) for i in range(site.width(model.config))]
    draws = torch.rand(len(every), generator=generator)
    nodes = tuple(n for n, u in zip(every, draws, strict=True) if u < share or n.site.kind in all_of)
    return Circuit("tiny", model.config, nodes, means_of(model))


def edges_of(circuit: Circuit, model: Transformer) -> list[EdgeEnds]:
    return [edge.ends for edge in weight_edges(model, circuit.nodes)]


def logits(circuit: Circuit, model: Transformer) -> Tensor:
    return circuit.cut_model(model)(tiny_prompts(model), tap=circuit.to_tap())


TARGETS = tuple({target for _, target in MATRICES.values()})


def test_dropping_all_edges_of_a_source_is_removing_it(model: Transformer) -> None:
    whole = circuit_of(model, 0.5, TARGETS)
    kept_edges = edges_of(whole, model)
    for kind in ("attn.act_in", "attn.v", "mlp.act_in", "mlp.post_act"):
        chosen = [node for node in whole.nodes if node.site.kind == kind][::3]
        before = logits(whole, model)
        moved = 0.0
        for node in chosen:
            without = replace(whole, kept_edges=tuple(edge for edge in kept_edges if edge[0] != node))
            removed = replace(whole, nodes=tuple(other for other in whole.nodes if other != node))
            found = logits(without, model)
            torch.testing.assert_close(found, logits(removed, model), rtol=0, atol=2e-6)
            moved = max(moved, (found - before).abs().max().item())
        assert moved > 1e-3, kind


def ablated_by_hand(model: Transformer, circuit: Circuit, edge: EdgeEnds) -> Tensor:
    """Logits of the circuit without one edge, from the matrix's own output and what it reads."""
    source, target = edge
    layer = source.site.layer
    name = next(n for n, a, b in matrices(model.config) if (a, b) == (source.site, target.site))
    linear = model.get_submodule(name)
    weight = linear.get_parameter("weight")[target.index, source.index]

    def less_one(module: torch.nn.Module, args: tuple[Tensor], out: Tensor) -> Tensor:
        out = out.clone()
        out[..., target.index] += weight * (circuit.means[source.site][source.index] - args[0][..., source.index])
        return out

    handle = linear.register_forward_hook(less_one)
    found = model(tiny_prompts(model), tap=circuit.to_tap())
    handle.remove()
    assert layer == target.site.layer
    return found


def test_dropped_edge_by_hand(model: Transformer) -> None:
    whole = circuit_of(model, 0.5)
    kept_edges = edges_of(whole, model)
    for matrix in MATRICES:
        kinds = MATRICES[matrix]
        ours = [edge for edge in kept_edges if (edge[0].site.kind, edge[1].site.kind) == kinds]
        assert ours, matrix
        for edge in ours[:: max(1, len(ours) // 5)]:
            cut = replace(whole, kept_edges=tuple(other for other in kept_edges if other != edge))
            torch.testing.assert_close(logits(cut, model), ablated_by_hand(model, whole, edge), rtol=0, atol=2e-6)


def test_sink_takes_a_share_that_the_fold_neglects() -> None:
    """With a sink the mean of v arrives in part: the two differ by weight × mean × share, and only there."""
    model = tiny_model(density=0.3, sink=True).requires_grad_(False)
    whole = circuit_of(model, 1.0)
    node = next(source for source, target in edges_of(whole, model) if target.site.kind == "attn.resid_delta")
    without = replace(whole, kept_edges=tuple(edge for edge in edges_of(whole, model) if edge[0] != node))
    removed = replace(whole, nodes=tuple(other for other in whole.nodes if other != node))
    assert not torch.allclose(logits(without, model), logits(removed, model), atol=1e-5)
    with torch.no_grad():
        for sublayer in model.sublayers[::2]:
            sublayer.sink.fill_(-50.0)  # pyright: ignore
    torch.testing.assert_close(logits(without, model), logits(removed, model), rtol=0, atol=2e-6)


def test_every_edge_listed_is_no_edge_listed(model: Transformer) -> None:
    whole = circuit_of(model, 0.4)
    listed = replace(whole, kept_edges=tuple(edges_of(whole, model)))
    assert whole.cut_model(model) is model
    assert listed.cut_model(model) is model
    assert listed.edges(model) == whole.edges(model)


def test_given_model_stays_and_the_rest_is_shared(model: Transformer) -> None:
    whole = circuit_of(model, 0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept_edges = [edge for edge in edges_of(whole, model) if edge[1].site != Site.parse("1.attn.q")]
    cut = replace(whole, kept_edges=tuple(kept_edges)).cut_model(model)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert model.config.biases or not any(name.endswith("bias") for name in before)
    changed = {"blocks.1.attn.w_q.weight", "blocks.1.attn.w_q.bias"}
    for name, value in cut.state_dict().items():
        if name in before and name not in changed:
            assert value.data_ptr() == model.state_dict()[name].data_ptr(), name
        elif name not in changed:
            assert not value.any()
    gone = cut.get_parameter("blocks.1.attn.w_q.weight") != model.get_parameter("blocks.1.attn.w_q.weight")
    assert int(gone.sum()) == len(edges_of(whole, model)) - len(kept_edges) > 0


def test_edges_to_removed_nodes_stay() -> None:
    """They count in what AbsTopK selects, as they do in a circuit with all its edges."""
    model = tiny_model(density=0.3).requires_grad_(False)
    whole = circuit_of(model, 0.5)
    cut = replace(whole, kept_edges=()).cut_model(model)
    kept = set(whole.nodes)
    for name, source, target in matrices(model.config):
        weight, now = (each.get_parameter(f"{name}.weight") for each in (model, cut))
        for row, column in weight.nonzero().tolist():
            inside = Node(target, row) in kept and Node(source, column) in kept
            assert now[row, column] == (0 if inside else weight[row, column])


def test_invalid_edges_are_refused() -> None:
    model = tiny_model(density=0.5)
    whole = circuit_of(model, 0.6)
    kept_edges = edges_of(whole, model)
    outside = next(n for n, *_ in weight_edges_of_all(model) if n not in set(whole.nodes))
    q, k = (next(n for n in whole.nodes if n.site.kind == kind) for kind in ("attn.q", "attn.k"))
    late = next(n for n in whole.nodes if str(n.site) == "1.attn.q")
    early = next(n for n in whole.nodes if str(n.site) == "0.attn.act_in")
    cases = {
        "joins a node that is not in the tiny circuit": (outside, kept_edges[0][1]),
        "No matrix joins the ends of edge": (q, k),
        "No matrix joins": (early, late),
        "lists an edge twice": kept_edges[0],
    }
    for message, edge in cases.items():
        with pytest.raises(UserError, match=message):
            replace(whole, kept_edges=(*kept_edges, edge))


def weight_edges_of_all(model: Transformer) -> list[EdgeEnds]:
    return edges_of(circuit_of(model, 1.0), model)

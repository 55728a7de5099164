"""Masks over edges: the circuit they stand for, gradients by finite differences, and planted edges learned."""

from dataclasses import replace

import planted
import pytest
import torch
from test_discretize import EVERY, TARGET, edges_of, evaluator_of, planted_edges
from torch import Tensor

from thinwire.circuit import Circuit
from thinwire.prune import PruneConfig
from thinwire.prune.discretize import Evaluator, smallest_candidate
from thinwire.prune.edge_masks import EdgeMasks
from thinwire.prune.learn import learn
from thinwire.prune.simplify import simplified
from thinwire.sites import Node
from thinwire.tasks import last_logits, margin, margin_losses

pytestmark = pytest.mark.usefixtures("in_float32")


def some_nodes(share: float = 0.5, seed: int = 1) -> list[Node]:
    draws = torch.rand(len(EVERY), generator=torch.Generator().manual_seed(seed))
    return [node for node, u in zip(EVERY, draws, strict=True) if u < share]


def circuit_of(plant: planted.Planted, masks: EdgeMasks, hard: Tensor) -> Circuit:
    kept_edges = tuple(edge for edge, kept in zip(masks.units, hard.tolist(), strict=True) if kept)
    nodes = {node for edge in kept_edges for node in edge}.union(masks.forced, masks.loose)
    return Circuit("masked", planted.SHAPE, tuple(sorted(nodes)), plant.means, kept_edges=kept_edges)


@pytest.mark.parametrize("nodes", [None, some_nodes()])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.97, 1.0])
def test_masks_run_as_the_circuit_they_stand_for(
    plant: planted.Planted, nodes: list[Node] | None, share: float
) -> None:
    masks = EdgeMasks(plant.model, plant.means, nodes, forced=EVERY[:2])
    batch = plant.planted.pairs(8, "train", 0)
    hard = (torch.rand(2, masks.n, generator=torch.Generator().manual_seed(3)) < share).float()
    for row, margins in zip(hard, masks.margins(hard, batch), strict=True):
        circuit = circuit_of(plant, masks, row)
        logits = last_logits(circuit.cut_model(plant.model), batch, tap=circuit.to_tap())
        torch.testing.assert_close(margins, margin(logits, batch), rtol=1e-4, atol=1e-5)


def test_units_are_the_edges_between_the_nodes(plant: planted.Planted) -> None:
    assert EdgeMasks(plant.model, plant.means).units == tuple(edges_of(plant))
    nodes = some_nodes()
    masks = EdgeMasks(plant.model, plant.means, nodes, forced=[EVERY[0]], excluded=[nodes[5]])
    chosen = {*nodes, EVERY[0]} - {nodes[5]}
    assert masks.units == tuple(edge for edge in edges_of(plant) if chosen.issuperset(edge))
    assert masks.n == len(masks.units) > 50
    assert set(masks.loose) == chosen - {node for edge in masks.units for node in edge}
    assert masks.forced == (EVERY[0],)


def test_gradient_of_a_mask_is_the_slope_of_the_loss(plant: planted.Planted) -> None:
    """Between 0 and 1, where nothing switches: central differences; only the loss itself is taken in float32."""
    double = replace(
        plant,
        model=planted.chain().model.double(),
        means={site: mean.double() for site, mean in plant.means.items()},
    )
    masks = EdgeMasks(double.model, double.means)
    batch = plant.planted.pairs(4, "train", 0)
    generator = torch.Generator().manual_seed(4)
    soft = (0.8 + 0.2 * torch.rand(1, masks.n, generator=generator, dtype=torch.float64)).requires_grad_()
    (slope,) = torch.autograd.grad(margin_losses(masks.margins(soft, batch)).mean(-1).sum(), soft)
    ours = [masks.units.index(edge) for edge in planted_edges(plant)]
    others = torch.randint(masks.n, (6,), generator=generator).tolist()
    step = 2e-3
    for column in (*ours, *others):
        moved = torch.zeros_like(soft)
        moved[0, column] = step
        with torch.no_grad():
            up, down = (margin_losses(masks.margins(soft + by, batch)).mean(-1) for by in (moved, -moved))
            change = up - down
        assert slope[0, column].item() == pytest.approx(change.item() / (2 * step), rel=0.02, abs=1e-4)
    assert slope[0, ours].abs().min() > 10 * slope[0, others].abs().max()


def test_edges_into_a_node_that_is_ablated_can_come_back(plant: planted.Planted) -> None:
    masks = EdgeMasks(plant.model, plant.means)
    into = next(edge for edge in planted_edges(plant) if edge[1].site.kind == "attn.resid_delta")
    hard = torch.ones(1, masks.n)
    hard[0, [i for i, edge in enumerate(masks.units) if edge[1] == into[1]]] = 0
    hard.requires_grad_()
    (slope,) = torch.autograd.grad(
        margin_losses(masks.margins(hard, plant.planted.pairs(16, "train", 0))).mean(-1).sum(), hard
    )
    assert slope[0, masks.units.index(into)] < 0


@pytest.mark.parametrize("name", planted.PLANTED)
def test_learned_masks_find_the_planted_edges(name: str) -> None:
    plant = planted.PLANTED[name]()
    masks = EdgeMasks(plant.model, plant.means)
    config = PruneConfig(steps=60, batch_pairs=16, restarts=0)
    learned = learn(masks, plant.planted.pairs(256, "train", 0), config, [config.point], seed=0)
    candidate = edges_kept_of(plant, masks, learned.tau[0], TARGET)
    assert candidate == set(planted_edges(plant))


def test_nodes_then_edges_finds_the_planted_edges() -> None:
    """Two edges between planted nodes are no part of the circuit."""
    plant = planted.crossed()
    masks = EdgeMasks(plant.model, plant.means, [*plant.nodes, EVERY[1], EVERY[2]])
    assert masks.loose == (EVERY[1], EVERY[2])
    assert masks.n == len(plant.edges) + 2
    config = PruneConfig(steps=40, batch_pairs=16, restarts=0, target_loss=0.06)
    learned = learn(masks, plant.planted.pairs(256, "train", 0), config, [config.point], seed=0)
    assert edges_kept_of(plant, masks, learned.tau[0], 0.03, max_scale=0.5) == set(planted_edges(plant))


def edges_kept_of(plant: planted.Planted, masks: EdgeMasks, tau: Tensor, target: float, max_scale: float = 3.0) -> set:
    """Edges of the circuit that a ranking ends in; its nodes are their ends."""
    evaluator: Evaluator = evaluator_of(
        plant, units=masks.units, edge_units=True, loose=masks.loose, max_scale=max_scale
    )
    candidate = smallest_candidate(tau, evaluator, target)
    assert candidate is not None
    candidate = simplified(candidate, evaluator, target)
    assert candidate.nodes == plant.nodes
    circuit = Circuit(plant.task.name, planted.SHAPE, candidate.nodes, plant.means, kept_edges=candidate.kept_edges)
    return {edge.ends for edge in circuit.edges(plant.model)}

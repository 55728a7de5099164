"""From masks to circuits: the evaluator, and the bisection over nodes and over edges."""

import planted
import pytest
import torch

from thinwire.circuit import Circuit, EdgeEnds, weight_edges
from thinwire.prune.calibrate import fit_calibration
from thinwire.prune.discretize import Evaluator, smallest_candidate
from thinwire.prune.passes import Parts
from thinwire.sites import Node, all_sites
from thinwire.tasks import PairBatch, accuracy, last_logits, margin, margin_losses, task_loss

TARGET = 0.15
EVERY = [Node(site, index) for site in all_sites(planted.SHAPE) for index in range(site.width(planted.SHAPE))]


@pytest.fixture(scope="module")
def plants() -> dict[str, planted.Planted]:
    return {name: make() for name, make in planted.PLANTED.items()}


def evaluator_of(plant: planted.Planted, **changes: object) -> Evaluator:
    pairs = plant.planted.pairs
    units = [(node,) for node in EVERY]
    rest = {"units": units, "forced": (), "max_scale": 3.0, **changes}
    return Evaluator(plant.model, plant.means, pairs(64, "validation", 0), **rest)  # pyright: ignore


def edges_of(plant: planted.Planted) -> list[EdgeEnds]:
    return [edge.ends for edge in weight_edges(plant.model, EVERY)]


def columns(plant: planted.Planted) -> list[int]:
    return [EVERY.index(node) for node in plant.nodes]


def planted_edges(plant: planted.Planted) -> list[EdgeEnds]:
    return [edge for edge in edges_of(plant) if edge in plant.edges]


def loss_by_hand(evaluator: Evaluator, parts: Parts) -> float:
    """Calibrated loss through the public circuit and one plain pass over all pairs at once."""
    kept_edges = None if parts.kept_edges is None else tuple(parts.kept_edges)
    circuit = Circuit(
        "by_hand", evaluator.model.config, tuple(sorted(parts.nodes)), evaluator.means, kept_edges=kept_edges
    )

    def margins(batch: PairBatch) -> torch.Tensor:
        return margin(last_logits(circuit.cut_model(evaluator.model), batch, tap=circuit.to_tap()), batch)

    found = margins(evaluator.validation)
    return margin_losses(fit_calibration(found, evaluator.max_scale).apply(found)).mean().item()


@pytest.mark.parametrize("name", planted.PLANTED)
def test_planted_model_does_its_task_and_needs_every_planted_node(name: str, plants: dict) -> None:
    plant = plants[name]
    batch = plant.planted.pairs(128, "heldout", 0)
    logits = last_logits(plant.model, batch)
    assert task_loss(logits, batch).item() < 0.05
    assert accuracy(logits, batch).item() == 1
    evaluator, needed = evaluator_of(plant), columns(plant)
    assert evaluator.measure(needed).loss < 0.01
    for column in needed:
        assert evaluator.measure([c for c in needed if c != column]).loss > 0.6
        others = [c for c in range(len(EVERY)) if c != column]
        assert evaluator.measure(others).loss > 3 * TARGET, "no backup does the same"


@pytest.mark.parametrize("edge_units", [False, True])
def test_measure_is_the_loss_of_the_circuit(plants: dict, edge_units: bool) -> None:
    plant = plants["chain"]
    evaluator = evaluator_of(plant, units=edges_of(plant), edge_units=True) if edge_units else evaluator_of(plant)
    generator = torch.Generator().manual_seed(0)
    for share in (0.1, 0.5, 0.9):
        chosen = (torch.rand(len(evaluator.units), generator=generator) < share).nonzero().flatten().tolist()
        parts = evaluator.parts(chosen)
        assert (parts.kept_edges is not None) == edge_units
        assert evaluator.measure(chosen).loss == pytest.approx(loss_by_hand(evaluator, parts), abs=1e-5)


@pytest.mark.parametrize("ranks", [(0, 1, 2), (0, 4, 9), (3, 30, 31), (100, 150, 200)])
def test_smallest_candidate_meets_and_one_fewer_misses(ranks: tuple[int, ...], plants: dict) -> None:
    """With the planted nodes at these ranks, the cut ends with the last of them. Checked against every k around it."""
    plant = plants["attention"]
    evaluator = evaluator_of(plant)
    order = [c for c in range(len(EVERY)) if c not in columns(plant)]
    for rank, column in zip(ranks, columns(plant), strict=True):
        order.insert(rank, column)
    tau = torch.empty(len(order))
    tau[order] = torch.linspace(1, -1, len(order))
    candidate = smallest_candidate(tau, evaluator, TARGET)
    assert candidate is not None
    assert candidate.columns == tuple(order[: ranks[-1] + 1])
    assert candidate.nodes == tuple(sorted(EVERY[c] for c in candidate.columns))
    assert candidate.kept_edges is None
    assert candidate.edges == len(list(weight_edges(plant.model, candidate.nodes)))
    assert candidate.loss == evaluator.measure(order[: ranks[-1] + 1]).loss <= TARGET
    assert candidate.loss_one_fewer == evaluator.measure(order[: ranks[-1]]).loss > TARGET
    around = range(max(0, ranks[-1] - 3), ranks[-1] + 4)
    assert [evaluator.measure(order[:k]).loss <= TARGET for k in around] == [k > ranks[-1] for k in around]


@pytest.mark.parametrize("name", planted.PLANTED)
def test_bisection_over_edges(name: str, plants: dict) -> None:
    """Planted edges first, all others behind: the cut is the planted edges and the nodes at their ends."""
    plant = plants[name]
    kept_edges = edges_of(plant)
    ours = set(planted_edges(plant))
    evaluator = evaluator_of(plant, units=kept_edges, edge_units=True)
    tau = torch.tensor([1.0 if edge in ours else -0.5 for edge in kept_edges])
    candidate = smallest_candidate(tau, evaluator, TARGET)
    assert candidate is not None
    assert candidate.nodes == plant.nodes
    assert candidate.kept_edges is not None
    assert set(candidate.kept_edges) == ours
    assert candidate.edges == len(plant.edges)
    assert candidate.loss <= TARGET < candidate.loss_one_fewer


def test_equal_strengths_rank_by_place(plants: dict) -> None:
    plant = plants["mlp"]
    candidate = smallest_candidate(torch.zeros(len(EVERY)), evaluator_of(plant), TARGET)
    assert candidate is not None
    assert candidate.columns == tuple(range(max(columns(plant)) + 1))


def test_no_cut_when_all_nodes_miss(plants: dict) -> None:
    assert smallest_candidate(torch.linspace(1, -1, len(EVERY)), evaluator_of(plants["attention"]), target=-1.0) is None


def test_no_node_when_a_guess_will_do(plants: dict) -> None:
    candidate = smallest_candidate(torch.linspace(1, -1, len(EVERY)), evaluator_of(plants["attention"]), target=0.7)
    assert candidate is not None
    assert (candidate.columns, candidate.nodes, candidate.edges) == ((), (), 0)


def test_forced_and_loose_nodes_are_in_every_cut(plants: dict) -> None:
    plant = plants["mlp"]
    forced, loose = EVERY[3], EVERY[50]
    evaluator = evaluator_of(plant, forced=(forced,), loose=(loose,))
    candidate = smallest_candidate(torch.linspace(1, -1, len(EVERY)), evaluator, target=0.7)
    assert candidate is not None
    assert candidate.nodes == (forced, loose)
    assert candidate.columns == ()


def test_nodes_that_share_a_mask_come_together(plants: dict) -> None:
    plant = plants["chain"]
    units = [plant.nodes[:3], plant.nodes[3:], *((node,) for node in EVERY if node not in plant.nodes)]
    evaluator = evaluator_of(plant, units=units)
    candidate = smallest_candidate(torch.linspace(1, -1, len(units)), evaluator, TARGET)
    assert candidate is not None
    assert candidate.columns == (0, 1)
    assert candidate.nodes == plant.nodes


def test_screen_never_turns_away_what_meets_the_target(plants: dict) -> None:
    """The bound of a few pairs lies below the loss on all, whatever the candidate."""
    for plant in plants.values():
        evaluator = evaluator_of(plant)
        generator = torch.Generator().manual_seed(2)
        for share in torch.linspace(0, 1, 10):
            chosen = {c for c in range(len(EVERY)) if torch.rand((), generator=generator) < share}
            parts = evaluator.parts(sorted(chosen | set(columns(plant)[1:])))
            assert evaluator.least_loss(parts) <= evaluator.measure_parts(parts).loss

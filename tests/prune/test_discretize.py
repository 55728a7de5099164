"""From masks to circuits: the judge, and the bisection over nodes and over wires."""

import planted
import pytest
import torch

from thinwire.circuit import Circuit, Wire, weight_edges
from thinwire.prune.calibrate import fit_calibration
from thinwire.prune.discretize import Judge, smallest_cut
from thinwire.prune.passes import Parts
from thinwire.sites import Node, all_sites
from thinwire.tasks import PairBatch, accuracy, last_logits, margin, margin_losses, task_loss

TARGET = 0.15
EVERY = [Node(site, index) for site in all_sites(planted.SHAPE) for index in range(site.width(planted.SHAPE))]


@pytest.fixture(scope="module")
def plants() -> dict[str, planted.Planted]:
    return {name: make() for name, make in planted.PLANTED.items()}


def judge_of(plant: planted.Planted, **changes: object) -> Judge:
    pairs = plant.planted.pairs
    units = [(node,) for node in EVERY]
    rest = {"units": units, "forced": (), "max_scale": 3.0, **changes}
    return Judge(plant.model, plant.means, pairs(64, "validation", 0), **rest)  # pyright: ignore


def wires_of(plant: planted.Planted) -> list[Wire]:
    return [(edge.source, edge.target) for edge in weight_edges(plant.model, EVERY)]


def columns(plant: planted.Planted) -> list[int]:
    return [EVERY.index(node) for node in plant.nodes]


def planted_wires(plant: planted.Planted) -> list[Wire]:
    names = {edge[:2] for edge in plant.edges}
    return [wire for wire in wires_of(plant) if tuple(node.name(planted.SHAPE) for node in wire) in names]


def loss_by_hand(judge: Judge, parts: Parts) -> float:
    """Calibrated loss through the public circuit and one plain pass over all pairs at once."""
    wires = None if parts.wires is None else tuple(parts.wires)
    circuit = Circuit("by_hand", judge.model.config, tuple(sorted(parts.nodes)), judge.means, wires=wires)

    def margins(batch: PairBatch) -> torch.Tensor:
        return margin(last_logits(circuit.cut_model(judge.model), batch, tap=circuit.to_tap()), batch)

    found = margins(judge.validation)
    return margin_losses(fit_calibration(found, judge.max_scale).apply(found)).mean().item()


@pytest.mark.parametrize("name", planted.PLANTED)
def test_planted_model_does_its_task_and_needs_every_planted_node(name: str, plants: dict) -> None:
    plant = plants[name]
    batch = plant.planted.pairs(128, "heldout", 0)
    logits = last_logits(plant.model, batch)
    assert task_loss(logits, batch).item() < 0.05
    assert accuracy(logits, batch).item() == 1
    judge, wired = judge_of(plant), columns(plant)
    assert judge.measure(wired)[0] < 0.01
    for column in wired:
        assert judge.measure([c for c in wired if c != column])[0] > 0.6
        assert judge.measure([c for c in range(len(EVERY)) if c != column])[0] > 3 * TARGET, "no backup does the same"


@pytest.mark.parametrize("wired", [False, True])
def test_measure_is_the_loss_of_the_circuit(plants: dict, wired: bool) -> None:
    plant = plants["chain"]
    judge = judge_of(plant, units=wires_of(plant), wired=True) if wired else judge_of(plant)
    generator = torch.Generator().manual_seed(0)
    for share in (0.1, 0.5, 0.9):
        chosen = (torch.rand(len(judge.units), generator=generator) < share).nonzero().flatten().tolist()
        parts = judge.parts(chosen)
        assert (parts.wires is not None) == wired
        assert judge.measure(chosen)[0] == pytest.approx(loss_by_hand(judge, parts), abs=1e-5)


@pytest.mark.parametrize("ranks", [(0, 1, 2), (0, 4, 9), (3, 30, 31), (100, 150, 200)])
def test_smallest_cut_meets_and_one_fewer_misses(ranks: tuple[int, ...], plants: dict) -> None:
    """With the planted nodes at these ranks, the cut ends with the last of them. Checked against every k around it."""
    plant = plants["attention"]
    judge = judge_of(plant)
    order = [c for c in range(len(EVERY)) if c not in columns(plant)]
    for rank, column in zip(ranks, columns(plant), strict=True):
        order.insert(rank, column)
    tau = torch.empty(len(order))
    tau[order] = torch.linspace(1, -1, len(order))
    cut = smallest_cut(tau, judge, TARGET)
    assert cut is not None
    assert cut.columns == tuple(order[: ranks[-1] + 1])
    assert cut.nodes == tuple(sorted(EVERY[c] for c in cut.columns))
    assert cut.wires is None
    assert cut.edges == len(list(weight_edges(plant.model, cut.nodes)))
    assert cut.loss == judge.measure(order[: ranks[-1] + 1])[0] <= TARGET
    assert cut.loss_one_fewer == judge.measure(order[: ranks[-1]])[0] > TARGET
    around = range(max(0, ranks[-1] - 3), ranks[-1] + 4)
    assert [judge.measure(order[:k])[0] <= TARGET for k in around] == [k > ranks[-1] for k in around]


@pytest.mark.parametrize("name", planted.PLANTED)
def test_bisection_over_wires(name: str, plants: dict) -> None:
    """Planted wires first, all others behind: the cut is the planted wires and the nodes at their ends."""
    plant = plants[name]
    wires = wires_of(plant)
    ours = set(planted_wires(plant))
    judge = judge_of(plant, units=wires, wired=True)
    tau = torch.tensor([1.0 if wire in ours else -0.5 for wire in wires])
    cut = smallest_cut(tau, judge, TARGET)
    assert cut is not None
    assert cut.nodes == plant.nodes
    assert cut.wires is not None
    assert set(cut.wires) == ours
    assert cut.edges == len(plant.edges)
    assert cut.loss <= TARGET < cut.loss_one_fewer


def test_equal_strengths_rank_by_place(plants: dict) -> None:
    plant = plants["mlp"]
    cut = smallest_cut(torch.zeros(len(EVERY)), judge_of(plant), TARGET)
    assert cut is not None
    assert cut.columns == tuple(range(max(columns(plant)) + 1))


def test_no_cut_when_all_nodes_miss(plants: dict) -> None:
    assert smallest_cut(torch.linspace(1, -1, len(EVERY)), judge_of(plants["attention"]), target=-1.0) is None


def test_no_node_when_a_guess_will_do(plants: dict) -> None:
    cut = smallest_cut(torch.linspace(1, -1, len(EVERY)), judge_of(plants["attention"]), target=0.7)
    assert cut is not None
    assert (cut.columns, cut.nodes, cut.edges) == ((), (), 0)


def test_forced_and_loose_nodes_are_in_every_cut(plants: dict) -> None:
    plant = plants["mlp"]
    forced, loose = EVERY[3], EVERY[50]
    judge = judge_of(plant, forced=(forced,), loose=(loose,))
    cut = smallest_cut(torch.linspace(1, -1, len(EVERY)), judge, target=0.7)
    assert cut is not None
    assert cut.nodes == (forced, loose)
    assert cut.columns == ()


def test_nodes_that_share_a_mask_come_together(plants: dict) -> None:
    plant = plants["chain"]
    units = [plant.nodes[:3], plant.nodes[3:], *((node,) for node in EVERY if node not in plant.nodes)]
    judge = judge_of(plant, units=units)
    cut = smallest_cut(torch.linspace(1, -1, len(units)), judge, TARGET)
    assert cut is not None
    assert cut.columns == (0, 1)
    assert cut.nodes == plant.nodes


def test_screen_never_turns_away_what_meets_the_target(plants: dict) -> None:
    """The bound of a few pairs lies below the loss on all, whatever the candidate."""
    for plant in plants.values():
        judge = judge_of(plant)
        generator = torch.Generator().manual_seed(2)
        for share in torch.linspace(0, 1, 10):
            chosen = {c for c in range(len(EVERY)) if torch.rand((), generator=generator) < share}
            parts = judge.parts(sorted(chosen | set(columns(plant)[1:])))
            assert judge.least_loss(parts) <= judge.measure_parts(parts)[0]

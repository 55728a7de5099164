"""From masks to circuits: bisection, passengers, and the planted circuits recovered exactly."""

import itertools

import planted
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thinwire.circuit import Circuit, weight_edges
from thinwire.errors import UserError
from thinwire.progress import silent
from thinwire.prune import PruneConfig, prune
from thinwire.prune.discretize import Judge, simplified_cut, smallest_cut
from thinwire.prune.masks import NodeMasks
from thinwire.prune.run import TargetMissed, best_cut, within_reach
from thinwire.prune.search import train_masks
from thinwire.prune.simplify import simplify
from thinwire.tasks import PairBatch, accuracy, last_logits, task_loss

CONFIG = PruneConfig(steps=60, batch_pairs=32, train_pairs=256, validation_pairs=64, heldout_pairs=64)
TARGET = 0.15


@pytest.fixture(scope="module")
def plants() -> dict[str, planted.Planted]:
    return {name: make() for name, make in planted.PLANTED.items()}


@pytest.fixture(scope="module")
def circuits(plants: dict[str, planted.Planted]) -> dict[str, Circuit]:
    return {name: prune(p.model, p.task, None, p.means, CONFIG) for name, p in plants.items()}  # pyright: ignore


def judge_of(plant: planted.Planted, masks: NodeMasks | None = None) -> Judge:
    masks = masks or NodeMasks(planted.SHAPE, 1, 0.0, 0.0, 0)
    pairs = plant.planted.pairs
    return Judge(plant.model, plant.means, pairs(64, "train", 0), pairs(64, "validation", 0), masks, 3.0)


def columns(plant: planted.Planted) -> list[int]:
    every = NodeMasks(planted.SHAPE, 1, 0.0, 0.0, 0).nodes()
    return [every.index(node) for node in plant.nodes]


@pytest.mark.parametrize("name", planted.PLANTED)
def test_planted_model_does_its_task_and_needs_every_planted_node(name: str, plants: dict) -> None:
    plant = plants[name]
    batch = plant.planted.pairs(128, "heldout", 0)
    logits = last_logits(plant.model, batch)
    assert task_loss(logits, batch).item() < 0.05
    assert accuracy(logits, batch).item() == 1
    judge, wired = judge_of(plant), columns(plant)
    assert judge.measure(wired)[0] < 0.01
    everything = range(len(judge.masks.nodes()))
    for column in wired:
        assert judge.measure([c for c in wired if c != column])[0] > 0.6
        assert judge.measure([c for c in everything if c != column])[0] > 3 * TARGET, "no backup does the same"


@pytest.mark.parametrize("name", planted.PLANTED)
def test_planted_circuit_is_recovered_exactly(name: str, plants: dict, circuits: dict) -> None:
    plant, circuit = plants[name], circuits[name]
    assert circuit.nodes == plant.nodes
    wires = {(e.source.name(planted.SHAPE), e.target.name(planted.SHAPE), e.weight) for e in circuit.edges(plant.model)}
    assert wires == plant.edges
    assert list(circuit.edges(plant.model)) == list(weight_edges(plant.model, plant.nodes))


@pytest.mark.parametrize("name", ["attention", "mlp", "chain"])
def test_trained_masks_rank_the_planted_nodes_first(name: str, plants: dict) -> None:
    """Without dropping passengers: bisection alone ends at the planted nodes."""
    plant = plants[name]
    config = CONFIG.replace(steps=200, simplify=False)
    masks = train_masks(plant.model, plant.means, plant.planted.pairs(256, "train", 0), config, silent)
    _, cut = best_cut(judge_of(plant, masks), config)
    assert set(cut.columns) == set(columns(plant))


def test_scores_of_a_circuit_are_what_they_say(plants: dict, circuits: dict) -> None:
    for name, plant in plants.items():
        circuit, scores = circuits[name], circuits[name].scores
        assert scores is not None
        batch = plant.planted.pairs(CONFIG.heldout_pairs, "heldout", CONFIG.seed)
        whole = last_logits(plant.model, batch)
        assert scores.unpruned_loss == pytest.approx(task_loss(whole, batch).item(), abs=1e-6)
        assert scores.unpruned_accuracy == 1
        only = last_logits(plant.model, batch, tap=circuit.to_tap())
        # the calibrated loss as two logits, answer by answer
        odds = only[:, planted.X] - only[:, planted.Y]
        calibrated = circuit.calibration.scale * odds + circuit.calibration.shift
        right = torch.where(batch.target == planted.X, calibrated, -calibrated)
        assert scores.heldout_loss == pytest.approx((1 + (-right.double()).exp()).log().mean().item(), abs=1e-6)
        assert scores.heldout_accuracy == 1
        assert scores.loss <= TARGET < scores.loss_one_fewer
        assert scores.edges == len(plant.edges)
        assert set(circuit.strengths) == set(circuit.nodes)
        assert circuit.answer_tokens == (planted.X, planted.Y)
        used = plant.planted.pairs(CONFIG.validation_pairs, "validation", CONFIG.seed).tokens.unique().tolist()
        assert circuit.prompt_tokens == tuple(used)
        channels = {c for n in plant.nodes if n.site.kind.endswith("act_in") for c in [n.index]}
        embedded = plant.model.embedding.weight[list(used)][:, sorted(channels)].count_nonzero()
        assert scores.embedding_edges == int(embedded)


@pytest.mark.parametrize("ranks", [(0, 1, 2), (0, 4, 9), (3, 30, 31), (100, 150, 200)])
def test_smallest_cut_meets_and_one_fewer_misses(ranks: tuple[int, ...], plants: dict) -> None:
    """With the planted nodes at these ranks, the cut ends with the last of them. Checked against every k around it."""
    plant = plants["attention"]
    judge = judge_of(plant)
    order = [c for c in range(len(judge.masks.nodes())) if c not in columns(plant)]
    for rank, column in zip(ranks, columns(plant), strict=True):
        order.insert(rank, column)
    tau = torch.empty(len(order))
    tau[order] = torch.linspace(1, -1, len(order))
    cut = smallest_cut(tau, judge, TARGET)
    assert cut is not None
    assert cut.columns == tuple(sorted(order[: ranks[-1] + 1]))
    assert cut.loss == judge.measure(order[: ranks[-1] + 1])[0] <= TARGET
    assert cut.loss_one_fewer == judge.measure(order[: ranks[-1]])[0] > TARGET
    around = range(max(0, ranks[-1] - 3), ranks[-1] + 4)
    assert [judge.measure(order[:k])[0] <= TARGET for k in around] == [k > ranks[-1] for k in around]


def test_equal_strengths_rank_by_place(plants: dict) -> None:
    plant = plants["mlp"]
    cut = smallest_cut(torch.zeros(len(judge_of(plant).masks.nodes())), judge_of(plant), TARGET)
    assert cut is not None
    assert cut.columns == tuple(range(max(columns(plant)) + 1))


def test_no_cut_when_all_nodes_miss(plants: dict) -> None:
    judge = judge_of(plants["attention"])
    tau = torch.linspace(1, -1, len(judge.masks.nodes()))
    assert smallest_cut(tau, judge, target=-1.0) is None
    config = CONFIG.replace(target_loss=1e-30)
    with pytest.raises(UserError, match="No trial met the target loss on validation pairs"):
        best_cut(judge, config)


def test_no_node_when_a_guess_will_do(plants: dict) -> None:
    judge = judge_of(plants["attention"])
    tau = torch.linspace(1, -1, len(judge.masks.nodes()))
    cut = smallest_cut(tau, judge, target=0.7)
    assert cut is not None
    assert cut.columns == ()
    assert cut.edges == 0


@pytest.mark.parametrize("name", planted.PLANTED)
def test_simplified_cut_has_no_passenger(name: str, plants: dict) -> None:
    plant = plants[name]
    judge = judge_of(plant)
    tau = torch.linspace(1, -1, len(judge.masks.nodes()))
    cut = smallest_cut(tau, judge, TARGET)
    assert cut is not None
    simple = simplified_cut(cut, tau, judge, TARGET)
    assert set(simple.columns) <= set(cut.columns)
    assert simple.loss <= TARGET
    fewer = [judge.measure([c for c in simple.columns if c != column])[0] for column in simple.columns]
    assert min(fewer) == simple.loss_one_fewer > TARGET
    assert set(simple.columns) == set(columns(plant))
    assert simple.edges == len(plant.edges)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_simplify_leaves_nothing_that_can_go(data: st.DataObject) -> None:
    """The target holds for any set that contains one of some sufficient sets."""
    n = data.draw(st.integers(0, 40))
    nodes = data.draw(st.permutations(range(n)))
    sets = [set(data.draw(st.lists(st.sampled_from(nodes), unique=True))) if n else set() for _ in range(2)]

    def meets(kept: list[int] | Tensor) -> bool:
        return any(needed <= set(kept) for needed in sets)

    kept = simplify(nodes, meets)  # pyright: ignore
    assert meets(kept)
    assert [c for c in nodes if c in set(kept)] == kept, "the order stays"
    assert not any(meets([other for other in kept if other != one]) for one in kept)
    assert set(kept) in sets


def test_target_that_the_model_misses_is_refused(plants: dict) -> None:
    plant = plants["mlp"]
    for target, missed in itertools.product((1e-6, 1e-3), (TargetMissed, UserError)):
        with pytest.raises(missed, match=r"The whole model has loss 0\.03\d on planted_mlp and .*; train it longer"):
            prune(plant.model, plant.task, None, plant.means, CONFIG.replace(target_loss=target))  # pyright: ignore


def test_aim_below_the_whole_model_goes_halfway_to_the_target(plants: dict) -> None:
    plant = plants["mlp"]
    pairs = plant.task.pairs(64, "validation", 0, None, plant.model.config.context)
    loss = task_loss(last_logits(plant.model, pairs), pairs).item()
    wanted = CONFIG.replace(target_loss=1.5 * loss, aim=0.5)
    found = within_reach(plant.model, plant.task, pairs, wanted)
    assert found.validation_target == pytest.approx(1.25 * loss)
    easy = CONFIG.replace(target_loss=4 * loss, aim=0.5)
    assert within_reach(plant.model, plant.task, pairs, easy) == easy


def test_same_seed_same_circuit(plants: dict) -> None:
    plant = plants["mlp"]
    config = CONFIG.replace(steps=5)
    first, second = (prune(plant.model, plant.task, None, plant.means, config) for _ in range(2))  # pyright: ignore
    assert first.nodes == second.nodes
    assert first.strengths == second.strengths
    assert first.calibration == second.calibration


def test_each_stage_has_pairs_of_its_own_split(plants: dict) -> None:
    plant = plants["mlp"]
    asked = []

    class Asked(planted.PlantedTask):
        def pairs(
            self, n: int, split: str, seed: int, tokenizer: object = None, context: int | None = None
        ) -> PairBatch:
            asked.append((split, n, seed, context))
            return plant.planted.pairs(n, split, seed, tokenizer, context)

    task = Asked("planted_mlp", True)
    prune(plant.model, task, None, plant.means, CONFIG.replace(steps=2, seed=5))  # pyright: ignore
    assert asked == [("train", 256, 5, 8), ("validation", 64, 5, 8), ("heldout", 64, 5, 8)]

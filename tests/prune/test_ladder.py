"""Ladders: each rung is the bisection's own answer, sizes never rise with the target, candidates are measured once."""

import planted
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from thinwire.circuit import Calibration
from thinwire.prune.discretize import Candidate, Evaluator, Measured, smallest_candidate
from thinwire.prune.ladder import Rung, ladder, ladder_of
from thinwire.sites import Node, all_sites

EVERY = [Node(site, index) for site in all_sites(planted.SHAPE) for index in range(site.width(planted.SHAPE))]
TARGETS = (0.6, 0.01, 0.15, 1e-9, 0.75)


class Table:
    """An evaluator with a table of losses of the first k units; a unit is a node with two edges."""

    def __init__(self, losses: list[float]) -> None:
        self.losses = losses
        self.measured: list[int] = []

    def measure(self, columns: list[int]) -> Measured:
        self.measured.append(len(columns))
        return Measured(self.losses[len(columns)], Calibration())

    def candidate(self, columns: list[int], fewer: float) -> Candidate:
        nodes = tuple(EVERY[column] for column in columns)
        loss = self.losses[len(columns)]
        return Candidate(tuple(columns), nodes, None, Calibration(), loss, fewer, 2 * len(columns))


def descending(n: int) -> Tensor:
    return torch.arange(n, 0, -1) / n


def evaluator_of(plant: planted.Planted) -> Evaluator:
    pairs = plant.planted.pairs(64, "validation", 0)
    return Evaluator(plant.model, plant.means, pairs, [(node,) for node in EVERY], (), 3.0)


def ranking(plant: planted.Planted) -> Tensor:
    """The planted nodes among others: at the even places of the first twelve, so that the circuit has passengers."""
    others = [node for node in EVERY if node not in plant.nodes]
    first = [node for pair in zip(plant.nodes, others, strict=False) for node in pair]
    order = [*first, *(node for node in others if node not in first)]
    tau = torch.empty(len(EVERY))
    tau[[EVERY.index(node) for node in order]] = torch.linspace(1, -1, len(EVERY))
    return tau


def test_rungs_by_hand() -> None:
    table = Table([0.7, 0.5, 0.3, 0.2, 0.1, 0.1])
    found = ladder(descending(5), table, [0.25, 0.6, 0.05, 0.1])  # pyright: ignore
    assert found == [
        Rung(0.05, None, None, None),
        Rung(0.1, 4, 8, 0.1),
        Rung(0.25, 3, 6, 0.2),
        Rung(0.6, 1, 2, 0.5),
    ]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 40))
def test_sizes_do_not_rise_with_the_target_whatever_the_losses(losses: list[float], n_positive: int) -> None:
    tau = descending(len(losses) - 1) - min(n_positive, len(losses)) / len(losses)
    found = ladder(tau, Table(losses), [0.1 * i for i in range(1, 10)])  # pyright: ignore
    sizes = [len(losses) if rung.nodes is None else rung.nodes for rung in found]
    assert sizes == sorted(sizes, reverse=True)
    assert all(rung.loss is None or rung.loss <= rung.target for rung in found)


def test_a_rung_is_what_bisecting_for_its_target_gives(plant: planted.Planted) -> None:
    tau = ranking(plant)
    found = ladder(tau, evaluator_of(plant), TARGETS)
    assert [rung.target for rung in found] == sorted(TARGETS)
    for rung in found:
        candidate = smallest_candidate(tau, evaluator_of(plant), rung.target)
        sizes = (None, None, None) if candidate is None else (len(candidate.nodes), candidate.edges, candidate.loss)
        assert (rung.nodes, rung.edges, rung.loss) == pytest.approx(sizes)
    at = {rung.target: rung for rung in found}
    assert at[1e-9].edges is None
    assert at[0.15].nodes == 11, "the last planted node is at this place"
    assert at[0.75].nodes == 0


def test_the_ladder_of_a_circuit_is_that_of_its_ranking(plant: planted.Planted) -> None:
    tau, evaluator = ranking(plant), evaluator_of(plant)
    candidate = smallest_candidate(tau, evaluator, 0.01)
    assert candidate is not None
    looser = [target for target in TARGETS if target >= 0.01]
    assert ladder_of(candidate.columns, evaluator, looser) == tuple(ladder(tau, evaluator, looser))
    assert ladder_of(candidate.columns, evaluator, [1e-9]) == (Rung(1e-9, None, None, None),)
    assert ladder_of((), evaluator, [0.75]) == (Rung(0.75, 0, 0, pytest.approx(0.693, abs=1e-3)),)


def test_candidates_are_shared_between_targets(plant: planted.Planted) -> None:
    tau, evaluator = ranking(plant), evaluator_of(plant)
    ladder(tau, evaluator, [0.15])
    one = len(evaluator._seen)
    ladder(tau, evaluator, [0.14, 0.15, 0.16])
    assert len(evaluator._seen) < 2 * one

"""Nothing that can go stays: planted circuits down to their edges, cheapest first, and the same without shortcuts."""

import planted
import pytest
import torch
from test_discretize import EVERY, TARGET, columns, edges_of, evaluator_of, loss_by_hand, planted_edges

from thinwire.circuit import weight_edges
from thinwire.prune import passes
from thinwire.prune.discretize import Candidate, Evaluator, smallest_candidate
from thinwire.prune.passes import Parts
from thinwire.prune.simplify import simplified
from thinwire.sites import Node

CROSSED = {"max_scale": 0.5}
"""With a bound on the calibration each of the two neurons is worth a half."""
CROSSED_TARGET = 0.03


def check_minimal(candidate: Candidate, evaluator: Evaluator, target: float) -> None:
    """No single node or edge can go, by plain passes."""
    every = {edge.ends for edge in weight_edges(evaluator.model, candidate.nodes)}
    kept_edges = every if candidate.kept_edges is None else set(candidate.kept_edges)
    assert candidate.kept_edges is None or kept_edges < every
    parts = Parts(frozenset(candidate.nodes), frozenset(kept_edges))
    assert loss_by_hand(evaluator, parts) == pytest.approx(candidate.loss, abs=1e-5)
    items: list[Node | tuple[Node, Node]] = [*sorted(parts.nodes), *sorted(kept_edges)]
    losses = [loss_by_hand(evaluator, parts.without([item])) for item in items]
    assert candidate.loss <= target < min(losses)
    assert candidate.loss_one_fewer == pytest.approx(min(losses), abs=1e-5)
    assert candidate.edges == len(kept_edges)


@pytest.mark.parametrize(
    ("name", "edge_units"),
    [
        *((name, False) for name in planted.PLANTED),
        *(pytest.param(name, True, marks=pytest.mark.slow) for name in planted.PLANTED if name != "attention"),
        ("attention", True),
    ],
)
def test_planted_circuit_is_all_that_stays(name: str, edge_units: bool) -> None:
    """From a ranking that knows nothing, by nodes and by edges."""
    plant = planted.PLANTED[name]()
    evaluator = evaluator_of(plant, units=edges_of(plant), edge_units=True) if edge_units else evaluator_of(plant)
    candidate = smallest_candidate(torch.linspace(1, -1, len(evaluator.units)), evaluator, TARGET)
    assert candidate is not None
    assert len(candidate.nodes) > len(plant.nodes)
    simple = simplified(candidate, evaluator, TARGET)
    assert simple.nodes == plant.nodes
    assert simple.kept_edges is None, "every weight between these nodes is kept"
    assert simple.edges == len(plant.edges)
    check_minimal(simple, evaluator, TARGET)
    if not edge_units:
        assert set(simple.columns) == set(columns(plant))
        assert list(simple.columns) == [c for c in candidate.columns if c in simple.columns], "strongest first"


@pytest.mark.parametrize("edge_units", [False, True])
def test_edges_between_nodes_that_stay_go_too(edge_units: bool) -> None:
    plant = planted.crossed()
    evaluator = (
        evaluator_of(plant, units=edges_of(plant), edge_units=True, **CROSSED)
        if edge_units
        else evaluator_of(plant, **CROSSED)
    )
    candidate = smallest_candidate(torch.linspace(1, -1, len(evaluator.units)), evaluator, CROSSED_TARGET)
    assert candidate is not None
    simple = simplified(candidate, evaluator, CROSSED_TARGET)
    assert simple.nodes == plant.nodes
    assert simple.kept_edges is not None
    assert set(simple.kept_edges) == set(planted_edges(plant))
    assert simple.edges == len(plant.edges)
    check_minimal(simple, evaluator, CROSSED_TARGET)


def test_forced_nodes_stay_and_loose_ones_go() -> None:
    plant = planted.mlp()
    forced, loose = EVERY[3], EVERY[50]
    evaluator = evaluator_of(plant, units=edges_of(plant), edge_units=True, forced=(forced,), loose=(loose,))
    candidate = evaluator.candidate(range(len(evaluator.units)), float("nan"))
    simple = simplified(candidate, evaluator, TARGET)
    assert simple.nodes == tuple(sorted([*plant.nodes, forced]))
    assert simple.edges == len(plant.edges)


def test_nothing_is_left_where_a_guess_will_do() -> None:
    evaluator = evaluator_of(planted.mlp())
    simple = simplified(evaluator.candidate(range(len(EVERY)), float("nan")), evaluator, 0.7)
    assert (simple.nodes, simple.edges, simple.columns) == ((), 0, ())
    assert simple.loss_one_fewer != simple.loss_one_fewer


@pytest.mark.parametrize(("name", "target"), [("chain", TARGET), ("crossed", CROSSED_TARGET)])
def test_shortcuts_change_nothing(name: str, target: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The screen, the residual points and the chunks on, and all of them off."""
    plant, scale = (planted.crossed(), CROSSED) if name == "crossed" else (planted.chain(), {})
    found = []
    for off in (False, True):
        if off:
            monkeypatch.setattr(passes, "CHUNK", 10**6)
            monkeypatch.setattr(passes.Passes, "_start", lambda self, parts: 0)
            monkeypatch.setattr(Evaluator, "least_loss", lambda self, parts: 0.0)
        evaluator = evaluator_of(plant, **scale)
        candidate = smallest_candidate(torch.linspace(1, -1, len(EVERY)), evaluator, target)
        assert candidate is not None
        found.append(simplified(candidate, evaluator, target))
    fast, slow = found
    assert (fast.nodes, fast.kept_edges, fast.columns, fast.edges) == (
        slow.nodes,
        slow.kept_edges,
        slow.columns,
        slow.edges,
    )
    assert fast.loss == pytest.approx(slow.loss, abs=1e-6)
    assert fast.loss_one_fewer == pytest.approx(slow.loss_one_fewer, abs=1e-6)

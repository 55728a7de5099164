"""Nothing that can go stays: planted circuits down to their wires, cheapest first, and the same without shortcuts."""

import planted
import pytest
import torch
from test_discretize import EVERY, TARGET, columns, judge_of, loss_by_hand, planted_wires, wires_of

from thinwire.circuit import weight_edges
from thinwire.prune import passes
from thinwire.prune.discretize import Cut, Judge, smallest_cut
from thinwire.prune.passes import Parts
from thinwire.prune.simplify import simplified_cut
from thinwire.sites import Node

CROSSED = {"max_scale": 0.5}
"""With a bound on the calibration each of the two neurons is worth a half."""
CROSSED_TARGET = 0.03


def check_minimal(cut: Cut, judge: Judge, target: float) -> None:
    """No single node or wire can go, by plain passes."""
    every = {(edge.source, edge.target) for edge in weight_edges(judge.model, cut.nodes)}
    wires = every if cut.wires is None else set(cut.wires)
    assert cut.wires is None or wires < every
    parts = Parts(frozenset(cut.nodes), frozenset(wires))
    assert loss_by_hand(judge, parts) == pytest.approx(cut.loss, abs=1e-5)
    items: list[Node | tuple[Node, Node]] = [*sorted(parts.nodes), *sorted(wires)]
    losses = [loss_by_hand(judge, parts.without([item])) for item in items]
    assert cut.loss <= target < min(losses)
    assert cut.loss_one_fewer == pytest.approx(min(losses), abs=1e-5)
    assert cut.edges == len(wires)


@pytest.mark.parametrize("name", planted.PLANTED)
@pytest.mark.parametrize("wired", [False, True])
def test_planted_circuit_is_all_that_stays(name: str, wired: bool) -> None:
    """From a ranking that knows nothing, by nodes and by wires."""
    plant = planted.PLANTED[name]()
    judge = judge_of(plant, units=wires_of(plant), wired=True) if wired else judge_of(plant)
    cut = smallest_cut(torch.linspace(1, -1, len(judge.units)), judge, TARGET)
    assert cut is not None
    assert len(cut.nodes) > len(plant.nodes)
    simple = simplified_cut(cut, judge, TARGET)
    assert simple.nodes == plant.nodes
    assert simple.wires is None, "every weight between these nodes is kept"
    assert simple.edges == len(plant.edges)
    check_minimal(simple, judge, TARGET)
    if not wired:
        assert set(simple.columns) == set(columns(plant))
        assert list(simple.columns) == [c for c in cut.columns if c in simple.columns], "strongest first"


@pytest.mark.parametrize("wired", [False, True])
def test_wires_between_nodes_that_stay_go_too(wired: bool) -> None:
    plant = planted.crossed()
    judge = judge_of(plant, units=wires_of(plant), wired=True, **CROSSED) if wired else judge_of(plant, **CROSSED)
    cut = smallest_cut(torch.linspace(1, -1, len(judge.units)), judge, CROSSED_TARGET)
    assert cut is not None
    simple = simplified_cut(cut, judge, CROSSED_TARGET)
    assert simple.nodes == plant.nodes
    assert simple.wires is not None
    assert set(simple.wires) == set(planted_wires(plant))
    assert simple.edges == len(plant.edges)
    check_minimal(simple, judge, CROSSED_TARGET)


def test_forced_nodes_stay_and_loose_ones_go() -> None:
    plant = planted.mlp()
    forced, loose = EVERY[3], EVERY[50]
    judge = judge_of(plant, units=wires_of(plant), wired=True, forced=(forced,), loose=(loose,))
    cut = judge.cut(range(len(judge.units)), float("nan"))
    simple = simplified_cut(cut, judge, TARGET)
    assert simple.nodes == tuple(sorted([*plant.nodes, forced]))
    assert simple.edges == len(plant.edges)


def test_nothing_is_left_where_a_guess_will_do() -> None:
    judge = judge_of(planted.mlp())
    simple = simplified_cut(judge.cut(range(len(EVERY)), float("nan")), judge, 0.7)
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
            monkeypatch.setattr(Judge, "least_loss", lambda self, parts: 0.0)
        judge = judge_of(plant, **scale)
        cut = smallest_cut(torch.linspace(1, -1, len(EVERY)), judge, target)
        assert cut is not None
        found.append(simplified_cut(cut, judge, target))
    fast, slow = found
    assert (fast.nodes, fast.wires, fast.columns, fast.edges) == (slow.nodes, slow.wires, slow.columns, slow.edges)
    assert fast.loss == pytest.approx(slow.loss, abs=1e-6)
    assert fast.loss_one_fewer == pytest.approx(slow.loss_one_fewer, abs=1e-6)

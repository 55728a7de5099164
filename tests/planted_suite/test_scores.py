"""Scores of pruners by hand, the pruners on a small planted model, and the examples of docs/planted.md."""

import re
from pathlib import Path

import planted as small
import pytest

from thinwire.circuit import EdgeEnds
from thinwire.planted import Found, Wiring, edge_auroc, edge_scores, recovery, run_pruner
from thinwire.planted.families import FAMILIES
from thinwire.planted.pruners import CONFIG, PRUNERS, score
from thinwire.planted.scores import Recovery
from thinwire.sites import Node, Site

A, B, C, D = (Node(Site.of(0, kind), 0) for kind in ("mlp.act_in", "mlp.post_act", "mlp.resid_delta", "attn.v"))
ONE, OTHER, THIRD = EdgeEnds(A, B), EdgeEnds(B, C), EdgeEnds(D, C)


def test_recovery_by_hand() -> None:
    truth = [Wiring.of([ONE, OTHER])]
    assert recovery([OTHER, ONE], truth) == Recovery(True, 1.0, 0, 0)
    assert recovery([ONE, THIRD], truth) == Recovery(False, 1 / 3, 1, 1)
    assert recovery([], truth) == Recovery(False, 0.0, 2, 0)
    assert recovery([THIRD], [*truth, Wiring.of([THIRD])]).exact, "any true circuit will do"
    assert recovery([], [Wiring.of([])]).exact, "nothing is right where nothing does the task"
    with pytest.raises(ValueError, match="no truth"):
        recovery([ONE], [])


def test_an_edge_scores_as_the_lesser_of_its_ends() -> None:
    assert edge_scores([ONE, OTHER, THIRD], {A: 3.0, B: 1.0, C: 2.0}) == {ONE: 1.0, OTHER: 1.0, THIRD: 0.0}


def test_auroc_by_hand() -> None:
    scores = {ONE: 2.0, OTHER: 1.0, THIRD: 1.0}
    assert edge_auroc(scores, [Wiring.of([ONE])]) == 1.0
    assert edge_auroc(scores, [Wiring.of([OTHER])]) == 0.25, "one is above it and one equal"
    assert edge_auroc(scores, [Wiring.of([OTHER]), Wiring.of([ONE])]) == 1.0
    with pytest.raises(ValueError, match="every true edge"):
        edge_auroc({ONE: 1.0}, [Wiring.of([ONE])])


@pytest.mark.parametrize("method", [pytest.param("learned", marks=pytest.mark.slow), "attribution"])
def test_pruners_recover_a_small_planted_circuit(method: str) -> None:
    plant = small.mlp()
    config = CONFIG.replace(method=method, steps=60, trials=1, train_pairs=64, validation_pairs=32, heldout_pairs=32)
    found = run_pruner(plant, config)
    assert set(found.scores) == set(plant.every_node)
    result = score(plant, found)
    assert result.recovery.exact
    assert result.auroc is not None
    assert result.auroc > 0.95
    assert not result.refused


def test_a_target_that_is_missed_is_a_result() -> None:
    found = run_pruner(small.mlp(), CONFIG.replace(method="attribution", target_loss=1e-6))
    assert found.edges is None
    assert "target" in found.reason
    result = score(small.mlp(), found)
    assert (result.refused, result.auroc, result.recovery.missing) == (True, 0.5, 2)


def test_every_pruner_has_a_name() -> None:
    assert {"learned", "learned_uncalibrated", "robust", "attribution", "integrated_gradients"} == set(PRUNERS)


def test_the_examples_of_the_docs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs/planted.md").read_text("utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 2
    chosen = [*FAMILIES["neuron"].make(0, 0), *FAMILIES["backup"].make(0, 0)]
    monkeypatch.setattr("thinwire.planted.catalogue.suite", lambda seed=0: chosen)
    for example in examples:
        exec(example, {})
    shown = capsys.readouterr().out
    assert "neuron_0" in shown
    assert "backup_0" in shown
    assert isinstance(Found(None, {}, 0.0).scores, dict)

"""Thorough rows that prune again: nonsense, stability and rivals, by attribution so that a rerun takes a moment."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import planted
import pytest
import torch
from planted import FILLERS, PlantedTask, X, Y
from test_rows import inputs_of, missed
from test_thorough import with_second_way

from thinwire import artifact
from thinwire.prune import PruneConfig
from thinwire.sites import Node
from thinwire.tasks import CannotExpress, PairBatch, Task
from thinwire.verify import CheckInput, VerifyConfig, reruns, verify
from thinwire.verify.checks import all_checks
from thinwire.verify.checks.nonsense import expressible, nonsense
from thinwire.verify.checks.stability import rivals, stability
from thinwire.verify.claims import word_of
from thinwire.verify.reruns import Rerun, cheap_config, core_of, jaccard, own_config, pairwise, pruned

QUICK = PruneConfig(method="attribution", trials=1, train_pairs=48, validation_pairs=48, heldout_pairs=16)
SAME, OTHER = FILLERS[0], FILLERS[1]


@dataclass(frozen=True)
class WithControls(PlantedTask):
    """A planted task whose nonsense answers are chosen here."""

    summary: str = ""
    control: object = None  # pyright: ignore[reportIncompatibleVariableOverride]
    nonsense: tuple[int, int] = (SAME, OTHER)

    def pairs(self, n: int, split: str, seed: int, tokenizer: object = None, context: int | None = None) -> PairBatch:
        batch = super().pairs(n, split, seed)
        kind = self.name.partition(".")[2]
        one, other = self.nonsense
        if kind == "nonsense" and one == other:
            raise CannotExpress("the answers are the same")
        if kind.startswith("nonsense"):
            first = batch.target == X
            return replace(batch, target=torch.where(first, one, other), foil=torch.where(first, other, one))
        if kind == "swapped":
            return replace(batch, target=batch.foil, foil=batch.target)
        if kind == "constant":
            return replace(batch, target=torch.full_like(batch.target, X), foil=torch.full_like(batch.foil, Y))
        return batch


def prepared(inputs: CheckInput, answers: tuple[int, int] = (SAME, OTHER)) -> CheckInput:
    known = {plant().planted.name: plant().planted for plant in planted.PLANTED.values()}[inputs.circuit.task]
    own = WithControls(known.name, known.layout, known.answers, known.context, nonsense=answers)
    return replace(inputs, task=cast(Task, own), config=VerifyConfig(reruns=2))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("thinwire.verify.reruns", "thinwire.verify.checks.nonsense"):
        monkeypatch.setattr(f"{module}.own_config", lambda circuit: QUICK)


def test_the_config_is_the_circuits_own_without_its_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    inputs = inputs_of(planted.mlp())
    assert own_config(inputs.circuit) is None
    assert (cheap_config(inputs.circuit).steps, cheap_config(inputs.circuit).trials) == (reruns.CHEAP["steps"], 1)
    (tmp_path / "circuit").mkdir()
    config = PruneConfig(steps=7, search=4, target_loss=0.3, train_pairs=1000)
    made = artifact.finish(tmp_path / "circuit", "circuit", config, {}, [])
    stored = replace(inputs.circuit, artifact=made)
    assert own_config(stored) == config.replace(search=0)
    cheap = cheap_config(stored)
    assert (cheap.steps, cheap.target_loss, cheap.train_pairs) == (7, 0.3, reruns.CHEAP["train_pairs"])


@pytest.mark.parametrize("name", planted.PLANTED)
def test_a_rerun_finds_the_planted_circuit_on_any_prompts(name: str) -> None:
    inputs = prepared(inputs_of(planted.PLANTED[name]()))
    assert inputs.task is not None
    for seed in (None, 1):
        found = pruned(inputs, Rerun(inputs.task, QUICK, seed))
        assert found is not None
        assert found.nodes == inputs.circuit.nodes
        assert found.means.keys() == inputs.circuit.means.keys()


def test_a_true_circuit_is_stable_and_has_no_rival() -> None:
    inputs = prepared(inputs_of(planted.mlp()))
    found = stability(inputs)
    assert not missed(found)
    assert [one.value for one in found] == [1] * 7
    assert found[0].budget == "2 reruns of attribution on 48 pairs"
    assert [(one.name, one.value, one.status) for one in rivals(inputs)] == [("rivals.circuits", 0, "pass")]


def test_a_second_way_is_a_rival() -> None:
    inputs = prepared(with_second_way())
    count, edges, loss = rivals(inputs)
    assert (count.value, count.status, edges.value) == (1, "warn", 2)
    assert loss.value < 0.01


def test_reruns_that_find_nothing_are_not_called_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = prepared(inputs_of(planted.mlp()))
    monkeypatch.setattr("thinwire.verify.checks.stability.pruned", lambda *_: None)
    found = stability(inputs)
    assert len(missed(found)) == 4
    assert "fewer than two" in found[0].reason
    assert found[2].value == 0


def alike_outside(answers: tuple[int, int]) -> CheckInput:
    """No node of the model tells these two answers apart."""
    plant = planted.mlp()
    with torch.no_grad():
        plant.model.unembedding.weight[OTHER] = plant.model.unembedding.weight[SAME]
    return prepared(inputs_of(plant), answers)


@pytest.mark.parametrize(
    ("make", "name", "value", "status"),
    [
        (lambda: alike_outside((SAME, OTHER)), "nonsense.solved", 0, "pass"),
        (lambda: alike_outside((X, Y)), "nonsense.ratio", 1, "fail"),
    ],
    ids=["unsolved", "solved by as small a circuit"],
)
def test_nonsense_is_compared_with_the_circuit(
    make: Callable[[], CheckInput], name: str, value: float, status: str
) -> None:
    found = {one.name: one for one in nonsense(make())}
    assert (found[name].value, found[name].status) == (value, status)
    assert found["nonsense.solved"].status == ("pass" if name == "nonsense.solved" else "info")
    assert found["nonsense.constant solved"].value == 0, "the two sides are told apart, and the shift tips both"
    assert found["nonsense.swapped solved"].status == "info"


def test_a_control_has_no_control_and_one_that_cannot_be_told_is_passed_over() -> None:
    inputs = prepared(inputs_of(planted.mlp()), (SAME, SAME))
    assert inputs.task is not None
    assert expressible(inputs, inputs.task).name == "planted_mlp.nonsense1"
    control = replace(inputs, task=expressible(inputs, inputs.task))
    assert [(one.name, one.status) for one in nonsense(control)] == [("nonsense.solved", "info")]


def test_jaccard_over_pairs_of_sets_and_their_core() -> None:
    sets = [frozenset(Node.parse(f"0.mlp.post_act:{i}", planted.SHAPE) for i in each) for each in ("123", "234", "123")]
    assert jaccard(sets[0], sets[1]) == 0.5
    assert jaccard(frozenset(), frozenset()) == 1
    value, interval = pairwise(sets, 0)
    assert value == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert interval is not None
    assert (interval.low, interval.high) == (0.5, 1)
    assert (pairwise(sets[:2], 0), pairwise(sets[:1], 0)) == ((0.5, None), (0, None))
    circuits = [replace(inputs_of(planted.mlp()).circuit, nodes=tuple(sorted(each))) for each in sets]
    assert core_of(circuits) == sets[0] & sets[1]
    assert core_of([]) == frozenset()


@pytest.mark.slow
def test_a_true_circuit_passes_the_thorough_battery() -> None:
    inputs = prepared(alike_outside((SAME, OTHER)))
    config = VerifyConfig(thorough=True, pairs=32, random_circuits=5, reruns=2)
    tokens = torch.randint(1, planted.SHAPE.vocab_size, (9, 8), generator=torch.Generator().manual_seed(5))
    own = inputs.task
    verdict = verify(inputs.model, inputs.circuit, None, config, own=own, pretraining=tokens)  # pyright: ignore
    names = [check.name for check in all_checks(thorough=True)]
    assert list(dict.fromkeys(one.check for one in verdict.measurements)) == names
    assert not missed(verdict.measurements)
    assert word_of(verdict).word == "robust"
    assert all(one.meaning.endswith(".") and math.isfinite(one.value) for one in verdict.measurements)
    assert json.loads(json.dumps([one.row() for one in verdict.measurements], allow_nan=False))

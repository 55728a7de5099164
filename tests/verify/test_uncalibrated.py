"""A circuit that only the calibration's shift makes right does not read as right; the AUC by its definition."""

from dataclasses import replace

import planted
import pytest
import torch
from torch import Tensor

from thinwire.circuit import Calibration, Circuit, PruneScores
from thinwire.prune.calibrate import fit_calibration
from thinwire.tasks import TASKS, accuracy_of, auc_of, loss_of
from thinwire.verify import Verdict, VerifyConfig, verify
from thinwire.verify.intervals import auc_interval
from thinwire.verify.margins import Condition, Shift, mean_accuracy
from thinwire.verify.measurement import Judgement

CONFIG = VerifyConfig(pairs=64, random_circuits=2)
CHECKED = ("sufficiency.loss", "sufficiency.accuracy", "uncalibrated.accuracy")


def by_definition(margins: Tensor) -> float:
    right, wrong = margins.unflatten(0, (2, -1))
    wrong = -wrong
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in right.tolist() for b in wrong.tolist()]
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(4))
def test_auc_is_the_share_of_ordered_comparisons(seed: int) -> None:
    margins = torch.randn(24, generator=torch.Generator().manual_seed(seed)).mul(2).round() + seed / 4  # with ties
    expected = by_definition(margins)
    assert auc_of(margins).item() == pytest.approx(expected, abs=1e-6)
    for scale, shift in ((0.5, 0.0), (2.0, 4.0), (1.0, -16.0)):
        assert auc_of(Calibration(scale, shift).apply(margins)).item() == pytest.approx(expected, abs=1e-6)
    ends = auc_interval(margins, seed)
    assert 0 <= ends.low < expected < ends.high <= 1


def test_auc_interval_is_that_of_resampled_pairs() -> None:
    margins = torch.tensor([1.0, 2.0, -1.0, -0.5, 0.5, 1.5, 0.0, -1.0, 3.0, 0.25])
    drawn = torch.randint(5, (1000, 5), generator=torch.Generator().manual_seed(7))
    values = [by_definition(margins.unflatten(0, (2, -1))[:, rows].flatten()) for rows in drawn]
    low, high = torch.tensor(values).double().quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    ends = auc_interval(margins, 7)
    assert (ends.low, ends.high) == (pytest.approx(low), pytest.approx(high))


def shifted(by: float, target: float | None = 0.15) -> Verdict:
    """The verdict on a planted circuit in a model whose bias towards the first answer is larger by so much."""
    plant = planted.chain()
    plant.model.unembedding.bias[planted.X] += by  # pyright: ignore
    circuit = Circuit(plant.planted.name, plant.model.config, plant.nodes, plant.means)
    margins = circuit.margins(plant.model, plant.planted.pairs(64, "train", 0))
    scores = PruneScores(target, 0.1, 0.2, 0.1, 1.0, 0.1, 1.0, 4, 0, 0, 1.0) if target else None
    circuit = replace(circuit, calibration=fit_calibration(margins, CONFIG.max_logit_scale), scores=scores)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS._entries, plant.planted.name, plant.task)
        return verify(plant.model, circuit, None, CONFIG)  # pyright: ignore


def test_a_circuit_that_is_right_by_itself_passes() -> None:
    found = shifted(0.0)
    assert found["uncalibrated.accuracy"].value == found["sufficiency.accuracy"].value == 1
    assert [found[name].status for name in CHECKED] == ["pass", "info", "pass"]
    assert found["uncalibrated.accuracy"].reason == "at least 0.95"


@pytest.mark.parametrize("target", [0.15, None])
def test_a_circuit_that_only_the_shift_makes_right_is_caught(target: float | None) -> None:
    found = shifted(40.0, target)
    assert found["sufficiency.accuracy"].value == 1
    assert found["sufficiency.loss"].value < 0.15
    assert found["uncalibrated.accuracy"].value == 0.5
    assert found["uncalibrated.loss"].value > 1
    assert found["uncalibrated.AUC"].value == 1, "it does tell the sides apart"
    assert [found[name].status for name in CHECKED] == ["warn", "warn", "fail"]
    assert found["uncalibrated.accuracy"].reason.startswith("below 0.95, 1.000 after the calibration's shift of -")
    words = "meets the target of 0.150, but accuracy is 0.500" if target else "accuracy is 0.500"
    assert found["sufficiency.loss"].reason.startswith(f"{words} before the calibration's shift of -")


def test_a_failure_stays_one_and_a_lower_accuracy_warns_too() -> None:
    condition = Condition("a", "b", "mean", 100)
    some = torch.ones(200)
    some[:60] = -1
    before, after = mean_accuracy(some, condition), mean_accuracy(torch.ones(200), condition)
    shift = Shift(before, after, 2.5)
    assert shift.judgement == Judgement("warn", "1.000 only after the calibration's shift of 2.5")
    assert shift.limits(Judgement("fail", "misses")) == Judgement("fail", "misses")
    assert Shift(after, after, 2.5).limits(Judgement("pass", "meets")) == Judgement("pass", "meets")
    assert (accuracy_of(some).item(), loss_of(some).item() > 0) == (pytest.approx(0.7), True)

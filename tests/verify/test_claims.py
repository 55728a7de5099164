"""Thresholds, the word for a verdict and its weakest rows; the share of the log-odds; calibrations that never hurt."""

import math
from dataclasses import replace

import planted
import pytest
import torch

from thinwire.circuit import Circuit
from thinwire.tasks import loss_of
from thinwire.verify import CheckInput, Curve, Measurement, Verdict, VerifyConfig
from thinwire.verify.checks.log_odds import log_odds
from thinwire.verify.claims import statuses, verdict_line, weakest, word_of
from thinwire.verify.intervals import ratio_interval
from thinwire.verify.measurement import Status, Threshold


def measured(name: str, status: Status = "pass", value: float = 0.1, limit: Threshold | None = None) -> Measurement:
    check = name.partition(".")[0]
    fields = {"split": "heldout", "ablation": "mean", "meaning": "It is."}
    return Measurement(name, f"the {check} check", value, "nats", 8, None, status=status, threshold=limit, **fields)  # pyright: ignore


def verdict(*found: Measurement, task: str = "quotes") -> Verdict:
    return Verdict(task, 3, 2, 0.15, (measured("sufficiency.loss"), *found))


def test_strain_is_one_at_the_limit_and_more_beyond_it() -> None:
    most, least, ratio = Threshold(0.3), Threshold(0.7, at_most=False), Threshold(3.0, at_most=False)
    assert [limit.strain(limit.limit) for limit in (most, least, ratio)] == [1, 1, 1]
    assert [most.met(value) for value in (0.3, 0.31)] == [True, False]
    assert [least.met(value) for value in (0.7, 0.69)] == [True, False]
    assert (most.strain(0.0), most.strain(0.6)) == (0, 2)
    assert (least.strain(1.0), least.strain(0.4)) == (0, pytest.approx(2))
    assert (ratio.strain(6.0), ratio.strain(1.5), ratio.strain(0.0)) == (0.5, 2, math.inf)
    assert (Threshold(0.0).strain(0.0), Threshold(0.0).strain(0.5)) == (1, 1.5)
    assert (str(most), str(least)) == ("≤ 0.3", "≥ 0.7")


def test_a_measurement_is_held_against_its_threshold() -> None:
    met, missed = (measured("a.loss", value=value).held_against(Threshold(0.3)) for value in (0.1, 0.9))
    assert (met.status, met.reason, missed.status, missed.reason) == (
        "pass",
        "at most 0.3 nats",
        "fail",
        "above 0.3 nats",
    )
    assert measured("a.loss", value=0.9).held_against(Threshold(0.3), "warn").status == "warn"
    assert missed.strain == pytest.approx(3)
    assert measured("a.loss").strain is None


@pytest.mark.parametrize(
    ("found", "word", "status"),
    [
        ([measured("sufficiency.loss", "fail")], "not sufficient under mean ablation", "fail"),
        ([measured("nonsense.size", "fail")], "no smaller than a circuit for nonsense", "fail"),
        ([measured("necessity.AUC", "fail"), measured("resample.loss", "fail")], "not needed by the model", "warn"),
        ([measured("resample.loss", "fail")], "sufficient under mean ablation only", "warn"),
        ([measured("adversarial.loss", "fail")], "sufficient under mean ablation only", "warn"),
        ([measured("agreement.error", "warn")], "robust, except the agreement check", "warn"),
        ([measured("resample.loss")], "robust", "pass"),
    ],
)
def test_the_word_is_that_of_the_gravest_miss(found: list[Measurement], word: str, status: Status) -> None:
    others = [one for one in (measured("sufficiency.loss"),) if found[0].name != one.name]
    judged = word_of(Verdict("quotes", 3, 2, 0.15, (*others, *found)))
    assert (judged.word, judged.status) == (word, status)


def test_a_control_that_is_solved_and_a_verdict_without_thresholds() -> None:
    assert word_of(verdict(task="quotes.nonsense")).word == "solves nonsense answers"
    nothing = Verdict("quotes", 3, 2, None, (measured("sufficiency.loss", "info"),))
    assert word_of(nothing).word == "not judged: no check has a threshold"
    assert verdict_line(nothing) == "Verdict: not judged: no check has a threshold."
    zero = replace(measured("sufficiency.loss", "fail"), ablation="task_mean")
    assert word_of(Verdict("quotes", 3, 2, 0.15, (zero,))).word == "not sufficient under task-mean ablation"


def test_the_weakest_are_one_a_check_and_the_worst_first() -> None:
    limit = Threshold(0.3)
    rows = [
        measured("a.loss", "fail", 0.6, limit),
        measured("a.other", "fail", 3.0, limit),
        measured("b.loss", "warn", 9.0, limit),
        measured("c.loss", "fail", 0.9, limit),
        measured("d.loss", "pass", 0.2, limit),
        measured("e.loss", "info", 99.0),
    ]
    found = verdict(*rows)
    assert [one.name for one in weakest(found)] == ["a.other", "c.loss", "b.loss"]
    assert [one.name for one in weakest(found, 9)][3:] == ["d.loss", "sufficiency.loss"]
    assert statuses(found) == {"sufficiency": "pass", "a": "fail", "b": "warn", "c": "fail", "d": "pass"}
    assert verdict_line(found).startswith(
        "Verdict: robust, except the a check, the b check, the c check; 2 of 5 checks pass. Weakest: the a check: "
        "other 3.000 nats (passes ≤ 0.3); the c check"
    )


def inputs_of(plant: planted.Planted, pairs: int = 48) -> CheckInput:
    circuit = Circuit(plant.planted.name, plant.model.config, plant.nodes, plant.means)
    heldout, fit = (plant.planted.pairs(pairs, split, 3) for split in ("heldout", "train"))
    return CheckInput(plant.model, circuit, heldout, fit, VerifyConfig())


@pytest.mark.parametrize("name", planted.PLANTED)
def test_the_share_is_that_of_mean_margins(name: str) -> None:
    inputs = inputs_of(planted.PLANTED[name]())
    (share,) = log_odds(inputs)
    expected = inputs.alone().mean() / inputs.margins(inputs.heldout).mean()
    assert share.value == pytest.approx(expected.item(), rel=1e-5)
    assert share.status == "pass"
    (nothing,) = log_odds(replace(inputs, circuit=replace(inputs.circuit, nodes=())))
    assert (abs(nothing.value) < 0.1, nothing.status) == (True, "fail")


def test_the_ratio_interval_holds_the_ratio_of_means() -> None:
    generator = torch.Generator().manual_seed(0)
    below = 4 + torch.randn(200, generator=generator)
    ends = ratio_interval(below / 2, below, 0)
    assert (ends.low, ends.high) == (pytest.approx(0.5), pytest.approx(0.5))
    ends = ratio_interval(below / 2 + torch.randn(200, generator=generator), below, 0)
    assert ends.low < 0.5 < ends.high


@pytest.mark.parametrize("seed", range(5))
def test_a_refitted_loss_is_never_above_the_loss(seed: int) -> None:
    inputs = inputs_of(planted.mlp(), 4)
    margins = torch.randn(60, generator=torch.Generator().manual_seed(seed)) * (seed + 0.1) + seed - 2
    refitted = loss_of(inputs.refitted(margins)).item()
    assert refitted <= min(loss_of(margins).item(), math.log(2)) + 1e-6


def test_a_curve_may_name_what_its_values_belong_to() -> None:
    curve = Curve.named("site", {"0.attn.q": 0.5, "1.attn.v": 0.25})
    assert (curve.x, curve.y, curve.labels) == ((1.0, 2.0), (0.5, 0.25), ("0.attn.q", "1.attn.v"))
    with pytest.raises(ValueError, match="a label for each x, or none"):
        Curve("site", (1.0, 2.0), (0.5, 0.25), ("one",))

"""The check on perturbed prompts: the whole model as a circuit agrees everywhere; a circuit without nodes does not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from thinwire.circuit import Circuit
from thinwire.data import Tokenizer
from thinwire.model.taps import record
from thinwire.sites import Node
from thinwire.stages import Opened
from thinwire.tasks import find_task, p_correct
from thinwire.verify import CheckInput, VerifyConfig
from thinwire.verify.checks.perturbed import CURVE_PAIRS, Answered, perturbed
from thinwire.verify.thresholds import PERTURBED

CONFIG, TASK = VerifyConfig(pairs=12), "bracket_counting"


@pytest.fixture(scope="module")
def inputs() -> CheckInput:
    """The shipped model, and the circuit of it that has every node."""
    opened = Opened.open(Path("python-2x256"))
    config, task = opened.model.config, find_task(TASK)
    batch = task.pairs(12, "heldout", 0, opened.tokenizer, config.context)
    seen = record()
    with torch.no_grad():
        opened.model(batch.tokens, tap=seen)
    means = {site: values.mean((0, 1)) for site, values in seen.values.items()}
    nodes = tuple(Node(site, index) for site in means for index in range(len(means[site])))
    return CheckInput(
        opened.model, Circuit(TASK, config, nodes, means), batch, batch, CONFIG, task=task, tokenizer=opened.tokenizer
    )


def test_the_whole_model_as_a_circuit_agrees_with_itself(inputs: CheckInput) -> None:
    found = {one.quantity: one for one in perturbed(inputs)}
    assert inputs.task is not None
    names = list(inputs.task.perturbations)
    assert list(found)[:7] == ["largest difference", "unperturbed", *names]
    worst = found["largest difference"]
    assert (worst.status, worst.threshold, worst.budget) == ("pass", PERTURBED, "5 perturbations")
    assert worst.value == max(found[name].value for name in names) < 1e-5
    assert all(found[name].status == "info" for name in ("unperturbed", *names))
    assert all((one.split, one.n <= 12, one.meaning[-1]) == ("heldout", True, ".") for one in found.values())
    own, whole = found["p over length"].curve, found["model's p over length"].curve
    assert own is not None
    assert whole is not None
    assert own.x == whole.x == (5, 10, 20, 30, 40), "longer lists do not fit the context of 128"
    assert own.y == pytest.approx(whole.y, abs=1e-5)


def test_a_curve_is_of_what_the_model_says(inputs: CheckInput) -> None:
    """The curve's point is the mean p(correct) of one side of the same pairs, from the model alone."""
    assert inputs.task is not None
    curve = next(one for one in perturbed(inputs) if one.quantity == "model's p over length").curve
    assert curve is not None
    pairs, tokenizer = min(CURVE_PAIRS, CONFIG.pairs), inputs.tokenizer
    assert tokenizer is not None
    batch = inputs.task.perturbed("length", 20).pairs(pairs, "heldout", CONFIG.seed, tokenizer, 128)
    assert curve.y[curve.x.index(20)] in [
        pytest.approx(p.mean().item(), abs=1e-5) for p in p_correct(inputs.model, batch).split(pairs)
    ]


def test_a_circuit_without_nodes_is_caught(inputs: CheckInput) -> None:
    empty = replace(inputs, circuit=replace(inputs.circuit, nodes=()))
    worst, *_ = perturbed(empty)
    assert worst.status == "fail"
    assert worst.value > 0.3
    assert worst.reason.startswith("above 0.1: ")


def test_a_side_that_differs_is_not_hidden_by_the_other() -> None:
    """Circuit and model have the same mean over both sides, but opposite answers."""
    one = Answered(torch.tensor([[0.9, 0.9], [0.1, 0.1]]), torch.tensor([[0.2, 0.2], [0.8, 0.8]]))
    assert one.side in (0, 1)
    assert (one.circuit - one.model).mean() == pytest.approx(0)
    assert (one.circuit - one.model)[one.side].mean().abs() == pytest.approx(0.7)


def test_without_perturbations_only_the_pairs_as_they_are(inputs: CheckInput) -> None:
    assert inputs.task is not None
    own = replace(inputs.task, source="0123456789abcdef")
    for bare in (replace(inputs, tokenizer=None), replace(inputs, task=None), replace(inputs, task=own)):
        (found,) = perturbed(bare)
        assert (found.name, found.status, found.n) == ("perturbed.unperturbed", "info", 12)


def test_a_perturbation_that_the_context_has_no_room_for_is_left_out(inputs: CheckInput) -> None:
    from thinwire.verify.checks.perturbed import _answered

    assert isinstance(inputs.tokenizer, Tokenizer)
    assert _answered(inputs, "length", 200, 4) is None

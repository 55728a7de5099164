"""Exchanging the nodes outside a circuit for those of another pair; and the check that docs/checks.md adds."""

import math
import re
from dataclasses import replace
from pathlib import Path

import planted
import pytest
import torch

from thinwire.circuit import Calibration, Circuit
from thinwire.model.taps import record
from thinwire.sites import all_sites
from thinwire.tasks import TASKS, last_logits, margin
from thinwire.verify.checks import CHECKS
from thinwire.verify.checks.resample import _exchanged, resample
from thinwire.verify.config import VerifyConfig
from thinwire.verify.inputs import CheckInput

CONFIG = VerifyConfig(pairs=130, random_circuits=1, seed=3)  # three parts of pairs


@pytest.fixture(params=planted.PLANTED)
def inputs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CheckInput:
    plant = planted.PLANTED[request.param]()
    monkeypatch.setitem(TASKS._entries, plant.planted.name, plant.task)
    circuit = Circuit(plant.planted.name, plant.model.config, plant.nodes, plant.means, Calibration(1.0, 0.0))
    pairs = plant.planted.pairs(CONFIG.pairs, "heldout", CONFIG.seed)
    return CheckInput(plant.model, circuit, pairs, pairs, CONFIG)


def test_a_faithful_circuit_survives(inputs: CheckInput) -> None:
    loss, accuracy = resample(inputs)
    assert (loss.n, loss.split, loss.ablation, loss.status) == (130, "heldout", "resample", "pass")
    assert loss.value < 0.05
    assert accuracy.value == 1


def test_without_any_node_the_answer_is_that_of_the_other_pair(inputs: CheckInput) -> None:
    """Its side is random, so half of the answers are wrong, with the margins of the whole model."""
    loss, accuracy = resample(replace(inputs, circuit=replace(inputs.circuit, nodes=())))
    assert loss.status == "warn"
    assert loss.value > math.log(2)
    assert 0.35 < accuracy.value < 0.65
    whole = margin(last_logits(inputs.model, inputs.heldout), inputs.heldout)
    assert whole.min() > 0, "the model itself is right everywhere"


def test_values_are_aligned_at_the_last_token(inputs: CheckInput) -> None:
    model, batch, sites = inputs.model, inputs.heldout.take(torch.arange(7)), list(all_sites(inputs.model.config))
    values = _exchanged(inputs, batch, sites, torch.Generator().manual_seed(0))
    side = torch.randint(2, (2, 7), generator=torch.Generator().manual_seed(0))
    seen = record(sites)
    model(batch.tokens, tap=seen)
    for row in range(14):
        donor = (row % 7 - 1) % 7 + 7 * int(side.flatten()[row])
        for site in sites:
            own, other = values[site][row], seen.values[site][donor]
            assert own[batch.last[row]].equal(other[batch.last[donor]])
            if batch.last[row] and batch.last[donor]:
                assert own[batch.last[row] - 1].equal(other[batch.last[donor] - 1])


def test_the_check_of_the_docs(inputs: CheckInput, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs/checks.md").read_text("utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.setattr(CHECKS, "_entries", dict(CHECKS._entries))
    names: dict[str, object] = {}
    exec(source, names)
    loss, accuracy = CHECKS["zero"].run(inputs)
    assert (loss.name, accuracy.name, loss.ablation) == ("zero.loss", "zero.accuracy", "zero")
    assert math.isfinite(loss.value)
    assert 0 <= accuracy.value <= 1

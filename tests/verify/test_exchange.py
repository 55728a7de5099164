"""Exchanging the nodes outside a circuit for those of other sequences; and the check that docs/checks.md adds."""

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
from thinwire.verify.checks import CHECKS, exchange
from thinwire.verify.config import VerifyConfig
from thinwire.verify.inputs import CheckInput
from thinwire.verify.outside import Donor, donated_values, margins_under, other_pair, other_side, scattered, sequences

CONFIG = VerifyConfig(pairs=130, exchange_pairs=130, random_circuits=1, seed=3)  # three parts of pairs
EVERY = {
    "resample": exchange.resample,
    "other_side": exchange.other_side_outside,
    "pretraining": exchange.pretraining,
    "scattered": exchange.scattered_outside,
}
PRETRAINING = torch.randint(1, planted.SHAPE.vocab_size, (9, 8), generator=torch.Generator().manual_seed(5))


@pytest.fixture(params=planted.PLANTED)
def inputs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CheckInput:
    plant = planted.PLANTED[request.param]()
    monkeypatch.setitem(TASKS._entries, plant.planted.name, plant.task)
    circuit = Circuit(plant.planted.name, plant.model.config, plant.nodes, plant.means, Calibration(1.0, 0.0))
    pairs = plant.planted.pairs(CONFIG.pairs, "heldout", CONFIG.seed)
    return CheckInput(plant.model, circuit, pairs, pairs, CONFIG, pretraining=PRETRAINING)


def test_a_true_circuit_survives_every_exchange(inputs: CheckInput) -> None:
    for name, measure in EVERY.items():
        loss, auc, accuracy = measure(inputs)
        assert (loss.n, loss.split, loss.ablation, loss.status, auc.status) == (130, "heldout", name, "pass", "pass")
        assert (loss.value < 0.1, auc.value, accuracy.value) == (True, 1, 1), name


def test_without_any_node_the_answer_is_that_of_the_donor(inputs: CheckInput) -> None:
    """Its side is random in another pair, the other one in the other side: right half of the time, and never."""
    whole = margin(last_logits(inputs.model, inputs.heldout), inputs.heldout)
    assert whole.min() > 0, "the model itself is right everywhere"
    empty = replace(inputs, circuit=replace(inputs.circuit, nodes=()))
    loss, auc, accuracy = exchange.resample(empty)
    assert (loss.status, auc.status) == ("fail", "fail")
    assert loss.value > math.log(2)
    assert 0.35 < accuracy.value < 0.65
    loss, auc, accuracy = exchange.other_side_outside(empty)
    assert (accuracy.value, auc.value, auc.status) == (0, 0, "fail")


@pytest.mark.parametrize(
    "donor", [other_pair, other_side, sequences(PRETRAINING), scattered(PRETRAINING)], ids=list(EVERY)
)
def test_a_donor_gives_the_values_that_it_names(inputs: CheckInput, donor: Donor) -> None:
    """Each value is the whole model's, at the row and the position that the donor names, of a run on that row alone."""
    model, batch, sites = inputs.model, inputs.heldout.take(torch.arange(7)), list(all_sites(inputs.model.config))
    found = donor(batch, torch.Generator().manual_seed(0))
    values = donated_values(inputs, found, sites, batch.last)
    rows = found.rows.expand_as(found.positions)
    for row in range(14):
        for position in (0, int(batch.last[row])):
            seen = record(sites)
            model(found.tokens[rows[row, position]][None], tap=seen)
            for site in sites:
                expected = seen.values[site][0, found.positions[row, position]]
                if values[site].shape[1] > 1:
                    assert values[site][row, position].allclose(expected, atol=1e-6)
                elif position == batch.last[row]:
                    assert values[site][row, 0].allclose(expected, atol=1e-6)


@pytest.mark.parametrize(("donor", "shift"), [(other_pair, 1), (other_side, 0)])
def test_prompts_are_aligned_at_the_last_token(inputs: CheckInput, donor: Donor, shift: int) -> None:
    batch = inputs.heldout.take(torch.arange(7))
    found = donor(batch, torch.Generator().manual_seed(0))
    lengths = set()
    for row in range(14):
        other, last = int(found.rows[row]), int(batch.last[row])
        lengths.add(int(batch.last[other]) - last)
        assert other % 7 == (row - shift) % 7, "the pair before, or the same pair"
        assert shift or other // 7 != row // 7, "and its other side"
        for back in range(last + 1):
            assert found.positions[row, last - back] == max(int(batch.last[other]) - back, 0)
    assert shift == 0 or len(lengths) > 1, "the prompts differ in length"


def test_stretches_keep_their_order_and_scattered_positions_do_not(inputs: CheckInput) -> None:
    batch = inputs.heldout.take(torch.arange(7))
    long = torch.arange(90).view(3, 30) % 12
    found = sequences(long)(batch, torch.Generator().manual_seed(0))
    pos = batch.tokens.shape[1]
    assert found.rows.shape == (14, 1)
    assert (found.positions.diff(dim=1) == 1).all()
    assert found.positions[:, 0].unique().numel() > 3
    assert int(found.positions.max()) < 30
    drawn = scattered(long)(batch, torch.Generator().manual_seed(0))
    assert drawn.rows.shape == drawn.positions.shape == (14, pos)
    assert drawn.rows[0].unique().numel() > 1
    assert not (drawn.positions.diff(dim=1) == 1).all()
    short = sequences(long[:, :3])(batch, torch.Generator().manual_seed(0))
    assert short.positions[0].tolist() == [0, 1, *[2] * (pos - 2)], "a short sequence's last position fills up"


def test_only_the_named_sites_are_exchanged(inputs: CheckInput) -> None:
    """With no site the nodes outside are at their means, as in the circuit alone."""
    alone = inputs.circuit.margins(inputs.model, inputs.exchanged)
    assert margins_under(inputs, other_pair, sites=frozenset()).allclose(alone, atol=1e-5)
    assert not margins_under(inputs, other_pair).allclose(alone, atol=1e-3)


def test_the_check_of_the_docs(inputs: CheckInput, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs/checks.md").read_text("utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.setattr(CHECKS, "_entries", dict(CHECKS._entries))
    names: dict[str, object] = {}
    exec(source, names)
    loss, accuracy = CHECKS["halfway"].run(inputs)
    assert (loss.name, accuracy.name, loss.ablation) == ("halfway.loss", "halfway.accuracy", "half the mean")
    assert math.isfinite(loss.value)
    assert loss.status == "pass"
    assert 0 <= accuracy.value <= 1

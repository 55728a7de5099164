"""Oracles of the planted models: the known circuit does the task, nothing of it can go, and each seed has its own."""

from collections.abc import Sequence
from functools import cache

import pytest
import torch

from thinwire.planted import Planted, Wiring, suite
from thinwire.planted.catalogue import families
from thinwire.planted.families import BALANCE_PAIRS
from thinwire.planted.model import TARGET_LOSS
from thinwire.prune.calibrate import fit_calibration
from thinwire.tasks import accuracy_of, last_logits, loss_of, margin
from thinwire.verify.checks import CHECKS, all_checks
from thinwire.verify.config import VerifyConfig

CONFIG = VerifyConfig(pairs=64, exchange_pairs=64)
QUICK = ("chain", "look", "backup", "cancelling", "uniform")
"""Families whose true circuits are checked in every run of the tests."""
ITSELF = "random.as good"
"""Share of random circuits that do as well: what joins tokens to answers in a planted model is mostly the circuit, so
that a random one may be the circuit itself."""
ALL = [one.name for one in families()]
EVERY = [(one.name, number) for one in families() for number in range(one.models)]
HONEST = [(one.name, number) for one in families() if not one.caught_by for number in range(one.models)]
FALSE = [(one.name, number) for one in families() if one.caught_by for number in range(one.models)]


def cases(of: list[tuple[str, int]], quick: Sequence[str] = ALL) -> list[object]:
    """The first model of the quick families, and as slow tests the others, and those of another seed."""
    every = [(name, number, seed) for seed in (0, 1) for name, number in of]
    marks = {True: (), False: (pytest.mark.slow,)}
    return [
        pytest.param(*each, id="-".join(map(str, each)), marks=marks[each[0] in quick and each[1:] == (0, 0)])
        for each in every
    ]


@cache
def made(name: str, number: int, seed: int) -> list[Planted]:
    (one,) = [one for one in families() if one.name == name]
    return one.make(seed, number)


def refitted(margins: torch.Tensor) -> float:
    return loss_of(fit_calibration(margins, CONFIG.max_logit_scale).apply(margins)).item()


def dropped(planted: Planted, edges: Wiring) -> float:
    pairs = planted.planted.pairs(CONFIG.pairs, "heldout", 0)
    with torch.no_grad():
        return refitted(planted.circuit(edges, CONFIG).margins(planted.model, pairs))


@pytest.mark.parametrize(("name", "number", "seed"), cases(EVERY))
def test_the_model_and_its_circuits_do_the_task(name: str, number: int, seed: int) -> None:
    for planted in made(name, number, seed):
        pairs = planted.planted.pairs(CONFIG.pairs, "heldout", 0)
        with torch.no_grad():
            whole = margin(last_logits(planted.model, pairs), pairs)
        if not planted.solvable:
            assert refitted(whole) > 0.65, "nothing in the model tells the answers apart"
            continue
        assert accuracy_of(whole) >= 0.95
        assert refitted(whole) <= TARGET_LOSS / 2
        assert planted.model.config.d_model <= 64
        for wiring in planted.truth + (() if planted.false is None else (planted.false,)):
            circuit = planted.circuit(wiring, CONFIG)
            assert {edge.ends for edge in circuit.edges(planted.model)} == wiring.edges
            with torch.no_grad():
                own = circuit.margins(planted.model, pairs)
            assert loss_of(circuit.calibration.apply(own)) <= TARGET_LOSS


@pytest.mark.parametrize(("name", "number", "seed"), cases(HONEST, QUICK))
def test_nothing_can_be_dropped(name: str, number: int, seed: int) -> None:
    for planted in made(name, number, seed):
        for wiring in planted.truth:
            for edge in wiring.edges:
                assert dropped(planted, Wiring(wiring.edges - {edge})) > TARGET_LOSS
            for node in wiring.nodes:
                rest = [edge for edge in wiring.edges if node not in edge]
                assert dropped(planted, Wiring.of(rest)) > TARGET_LOSS


@pytest.mark.parametrize(("name", "number", "seed"), cases(EVERY, QUICK))
def test_a_true_circuit_passes_every_fast_check(name: str, number: int, seed: int) -> None:
    for planted in made(name, number, seed):
        for wiring in planted.truth:
            inputs = planted.check_input(wiring, CONFIG)
            found = [one for check in all_checks() for one in check.run(inputs)]
            missed = {one.name: one.value for one in found if one.status in ("warn", "fail")}
            missed.pop(ITSELF, None)
            assert missed == {}


@pytest.mark.parametrize(("name", "number", "seed"), cases(FALSE))
def test_a_false_circuit_is_enough_and_is_caught(name: str, number: int, seed: int) -> None:
    (planted,) = made(name, number, seed)
    assert planted.false is not None
    assert planted.false.edges < planted.edges, "it misses a part of the true one"
    all_checks()
    inputs = planted.check_input(planted.false, CONFIG)
    losses = {one.name: one.value for one in CHECKS["sufficiency"].run(inputs)}
    assert losses["sufficiency.loss"] <= TARGET_LOSS
    if planted.caught_by not in set(CHECKS):
        pytest.skip(f"there is no check called {planted.caught_by}")
    statuses = {one.status for one in CHECKS[planted.caught_by].run(inputs)}
    if statuses == {"info"}:
        pytest.skip(f"{planted.caught_by} judges nothing")
    assert statuses & {"warn", "fail"}


@pytest.mark.parametrize(("name", "number"), [case for case in EVERY if case[1] == 0])
def test_generation_is_a_function_of_the_seed(name: str, number: int) -> None:
    (family,) = [one for one in families() if one.name == name]
    for one, again, other in zip(*(family.make(seed, number) for seed in (0, 0, 1)), strict=True):
        first, second = (each.model.state_dict() for each in (one, again))
        assert all(first[key].equal(second[key]) for key in first)
        assert (one.truth, one.false, one.planted) == (again.truth, again.false, again.planted)
        assert all(one.means[site].equal(again.means[site]) for site in one.means)
        assert one.pretraining is not None
        assert again.pretraining is not None
        assert one.pretraining.equal(again.pretraining)
        assert one.truth != other.truth or not one.solvable
        pairs = [
            each.planted.pairs(BALANCE_PAIRS, split, 0).tokens for each, split in ((one, "train"), (one, "heldout"))
        ]
        assert not pairs[0].equal(pairs[1])


@pytest.mark.slow
def test_the_suite_is_large_and_varied() -> None:
    planted = suite(seed=0)
    names = [one.name for one in planted]
    assert len(set(names)) == len(names) >= 30
    assert {one.model.config.n_layers for one in planted} == {1, 2, 3}
    assert len({one.model.config.d_model for one in planted}) == 4
    assert len({one.caught_by for one in planted}) >= 10

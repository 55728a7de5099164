"""Checks on planted circuits: enough, needed, and no accident of size."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import planted
import pytest

from thinwire import artifact
from thinwire.circuit import Calibration, Circuit, PruneScores
from thinwire.errors import UserError
from thinwire.prune import PruneConfig
from thinwire.prune.calibrate import fit_calibration
from thinwire.sites import Node
from thinwire.tasks import TASKS, accuracy, last_logits, margin, margin_losses, task_loss
from thinwire.verify import CheckInput, Verdict, VerifyConfig, verify
from thinwire.verify.checks import CHECKS, Check, all_checks, check
from thinwire.verify.checks.random_circuits import random_circuits
from thinwire.verify.checks.sufficiency import sufficiency
from thinwire.verify.measurement import Headline
from thinwire.verify.verdict import finished_verdict

KNOWN = {"sufficiency", "resample", "unpruned", "necessity", "random"}
"""The checks that these tests know; there may be others."""
CONFIG = VerifyConfig(pairs=64, random_circuits=9, seed=3)
GUESS = math.log(2)


@pytest.fixture(scope="module", params=planted.PLANTED)
def plant(request: pytest.FixtureRequest) -> Iterator[planted.Planted]:
    plant = planted.PLANTED[request.param]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS._entries, plant.planted.name, plant.task)
        yield plant


def circuit_of(plant: planted.Planted) -> Circuit:
    bare = Circuit(plant.planted.name, plant.model.config, plant.nodes, plant.means)
    pairs = plant.planted.pairs(64, "train", 0)
    margins = margin(last_logits(plant.model, pairs, tap=bare.to_tap()), pairs)
    return replace(bare, calibration=fit_calibration(margins, CONFIG.max_logit_scale))


@pytest.fixture(scope="module")
def verdict(plant: planted.Planted) -> Verdict:
    return verify(plant.model, circuit_of(plant), None, CONFIG)  # pyright: ignore


def test_planted_circuit_is_enough_and_needed(plant: planted.Planted, verdict: Verdict) -> None:
    assert list(dict.fromkeys(found.check for found in verdict.measurements)) == [
        check.name for check in all_checks(tokens=False)
    ]
    assert set(CHECKS) >= KNOWN
    assert (verdict.task, verdict.nodes, verdict.edges) == (plant.planted.name, len(plant.nodes), len(plant.edges))
    assert verdict.target_loss is None
    assert verdict["unpruned.loss"].value < 0.05
    assert verdict["unpruned.accuracy"].value == 1
    assert verdict["sufficiency.loss"].value < 1e-3
    assert verdict["sufficiency.accuracy"].value == 1
    assert verdict["necessity.loss"].value >= GUESS - 1e-3
    assert verdict["necessity.accuracy"].value == pytest.approx(0.5, abs=0.02)
    assert verdict["random.loss"].value == pytest.approx(GUESS, abs=0.03)
    for found in verdict.measurements:
        assert (found.n <= CONFIG.pairs, found.split) == (True, "heldout")
        assert found.meaning.endswith(".")
        if found.check in KNOWN:
            assert found.ablation == {"unpruned": "none", "resample": "resample"}.get(found.check, "mean")
        if found.interval is None:
            assert found.check in ("agreement", "patterns", "adversarial"), found.name
            continue
        assert found.interval.low - 1e-6 <= found.value <= found.interval.high + 1e-6
    assert verdict["sufficiency.loss"].status == "info", "it has no target"
    assert verdict["random.loss"].status == "pass"
    # the dead ends read the signal too, and the norms pass a trace of it on: no accuracy, but more than half an AUC
    assert verdict["necessity.refitted loss"].status == "pass"


def test_measurements_are_made_on_heldout_pairs(plant: planted.Planted, verdict: Verdict) -> None:
    circuit = circuit_of(plant)
    batch = plant.planted.pairs(CONFIG.pairs, "heldout", CONFIG.seed)
    whole, without = (last_logits(plant.model, batch, tap=tap) for tap in (lambda s, x: x, circuit.removed_tap()))
    assert verdict["unpruned.loss"].value == pytest.approx(task_loss(whole, batch).item(), abs=1e-6)
    assert verdict["necessity.loss"].value == pytest.approx(task_loss(without, batch).item(), abs=1e-6)
    assert verdict["necessity.accuracy"].value == pytest.approx(accuracy(without, batch).item())
    only = circuit.calibration.apply(margin(last_logits(plant.model, batch, tap=circuit.to_tap()), batch))
    assert verdict["sufficiency.loss"].value == pytest.approx(margin_losses(only).mean().item(), abs=1e-6)


def test_random_loss_is_the_median_of_its_curve(verdict: Verdict) -> None:
    found = verdict["random.loss"]
    assert found.curve is not None
    assert len(found.curve.y) == CONFIG.random_circuits
    assert list(found.curve.y) == sorted(found.curve.y)
    assert found.value == found.curve.y[len(found.curve.y) // 2]
    assert found.budget == f"{CONFIG.random_circuits} random circuits"


def test_same_seed_same_verdict(plant: planted.Planted, verdict: Verdict) -> None:
    assert verify(plant.model, circuit_of(plant), None, CONFIG) == verdict  # pyright: ignore


def test_circuit_of_the_wrong_nodes_is_neither_enough_nor_needed(plant: planted.Planted) -> None:
    wrong = tuple(Node(node.site, 3) for node in plant.nodes)
    circuit = replace(circuit_of(plant), nodes=wrong, calibration=Calibration())
    verdict = verify(plant.model, circuit, None, CONFIG)  # pyright: ignore
    assert verdict["sufficiency.loss"].value > 0.6
    assert verdict["necessity.loss"].value < 0.1
    assert verdict["necessity.AUC"].value == 1
    removed = verdict["necessity.refitted loss"]
    assert (removed.status, removed.reason) == ("fail", "below 0.6585 nats")


def test_random_circuit_that_contains_the_whole_model_is_enough(plant: planted.Planted) -> None:
    """Each has its own calibration, fitted on pairs of the train split."""
    sites = circuit_of(plant).keep
    everything = tuple(Node(site, i) for site, mask in sites.items() for i in range(len(mask)))
    pairs = plant.planted.pairs
    inputs = CheckInput(
        plant.model,
        replace(circuit_of(plant), nodes=everything),
        pairs(32, "heldout", 0),
        pairs(32, "train", 0),
        VerifyConfig(random_circuits=3, seed=0),
    )
    loss, area, as_good = random_circuits(inputs)
    assert loss.value < 1e-3
    assert (loss.status, area.value) == ("warn", 1)
    assert (as_good.value, as_good.status) == (1, "fail"), "each is the circuit itself"
    assert loss.curve is not None
    assert len(set(loss.curve.y)) == 1


def test_round_trip(verdict: Verdict, plant: planted.Planted, tmp_path: Path) -> None:
    (tmp_path / "circuit").mkdir()
    parent = artifact.finish(tmp_path / "circuit", "circuit", PruneConfig(), {}, [])
    known = replace(verdict, target_loss=0.15)
    known.save(tmp_path / "verdict", CONFIG, {"circuit": parent})
    assert Verdict.load(tmp_path / "verdict") == known
    opened = artifact.open_artifact(tmp_path / "verdict", "verdict")
    assert opened.meta.parents == {"circuit": parent.id}
    assert opened.config(VerifyConfig) == CONFIG
    stored = (tmp_path / "verdict/verdict.json").read_text()
    none, twice = dict(json.loads(stored), measurements=[]), json.loads(stored)
    twice["measurements"] *= 2
    broken = stored.replace('"x": [', '"x": [0.5, ')
    bare = stored.replace('"random.loss"', '"random"')
    for text in ("", "[]", "{}", '{"measurements": 3}', json.dumps(none), json.dumps(twice), broken, bare):
        (tmp_path / "verdict/verdict.json").write_text(text)
        with pytest.raises(UserError, match="missing, truncated or altered"):
            Verdict.load(tmp_path / "verdict")
        artifact.finish(tmp_path / "verdict", "verdict", CONFIG, {"circuit": parent}, ["verdict.json"])
        with pytest.raises(UserError, match="does not hold a readable verdict; verify again"):
            Verdict.load(tmp_path / "verdict")


def test_unknown_measurement_is_a_key_error(verdict: Verdict) -> None:
    verdict = replace(verdict, measurements=verdict.measurements[:1])
    assert verdict[verdict.measurements[0].name] is verdict.measurements[0]
    with pytest.raises(KeyError):
        verdict["random.loss"]


def test_model_of_another_shape_is_refused(plant: planted.Planted) -> None:
    other = replace(circuit_of(plant), shape=planted.SHAPE.replace(n_layers=1))
    with pytest.raises(UserError, match="belongs to a model of another shape"):
        verify(plant.model, other, None, CONFIG)  # pyright: ignore


def test_progress_is_reported(plant: planted.Planted) -> None:
    seen: list[tuple[int, int]] = []
    circuit = circuit_of(plant)
    checks = all_checks(tokens=False)
    verify(plant.model, circuit, None, CONFIG, lambda done, of, status: seen.append((done, of)))  # pyright: ignore
    assert seen == [(i + 1, len(checks)) for i in range(len(checks))]


def test_the_target_decides_the_status(plant: planted.Planted) -> None:
    scores = PruneScores(0.15, 0.1, 0.2, 0.1, 1.0, 0.1, 1.0, len(plant.edges), 0, 0, 1.0)
    met = replace(circuit_of(plant), scores=scores)
    missed = replace(met, calibration=Calibration(0.0, 0.0))  # guesses
    pairs = plant.planted.pairs(16, "heldout", 0)
    for circuit, status, word in ((met, "pass", "meets"), (missed, "fail", "misses")):
        inputs = CheckInput(plant.model, circuit, pairs, pairs, CONFIG)
        loss, _ = sufficiency(inputs)
        assert (inputs.target_loss, loss.status) == (0.15, status)
        assert loss.reason == f"{word} the target of 0.150"


def test_headlines_are_the_columns_and_the_flat_values(verdict: Verdict) -> None:
    titles = ["circuit alone", "accuracy", "other pair", "whole model", "circuit removed", "AUC removed"]
    titles.append("random circuits")
    known = {title: found for title, found in verdict.headlines.items() if found.check in KNOWN}
    assert list(known) == titles
    keys = [found.headline.key for found in known.values() if found.headline]
    assert keys[:4] == ["loss", "accuracy", "resample_loss", "unpruned_loss"]
    assert keys[4:] == ["necessity_loss", "removed_auc", "random_loss"]


@pytest.mark.parametrize(
    ("headline", "words"),
    [
        (Headline("circuit alone", "mine"), "same column or key"),
        (Headline("mine", "loss"), "same column or key"),
        (Headline("mine", "edges"), "own values: edges"),
        (Headline("mine", "seconds"), "own values: seconds"),
        (Headline("mine", "reused"), "own values: reused"),
    ],
)
def test_headlines_do_not_hide_each_other(verdict: Verdict, headline: Headline, words: str) -> None:
    further = replace(verdict["random.loss"], name="mine.loss", headline=headline)
    with pytest.raises(ValueError, match=words):
        replace(verdict, measurements=(*verdict.measurements, further))


def test_a_verdict_of_other_checks_is_made_again(
    plant: planted.Planted, verdict: Verdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "circuit").mkdir()
    parent = artifact.finish(tmp_path / "circuit", "circuit", PruneConfig(), {}, [])
    circuit = replace(circuit_of(plant), artifact=parent)
    verdict.save(tmp_path / "verdict", CONFIG, {"circuit": parent})
    assert finished_verdict(circuit, tmp_path / "verdict", CONFIG) == verdict
    assert finished_verdict(circuit, tmp_path / "verdict", VerifyConfig()) is None
    monkeypatch.setattr(CHECKS, "_entries", dict(CHECKS._entries))
    check("further", order=5)(lambda inputs: [replace(verdict["random.loss"], name="further.loss")])
    assert finished_verdict(circuit, tmp_path / "verdict", CONFIG) is None
    assert finished_verdict(circuit, tmp_path / "verdict") == verdict, "a reader takes it as it is"


def test_a_check_measures_under_its_own_name(
    plant: planted.Planted, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong, words in (([], "measures nothing"), ([verdict["random.loss"]], "names another check")):
        monkeypatch.setattr(CHECKS, "_entries", {"mine": Check("mine", 0, lambda inputs, wrong=wrong: wrong)})
        with pytest.raises(AssertionError, match=f"check mine {words}"):
            verify(plant.model, circuit_of(plant), None, CONFIG)  # pyright: ignore


@pytest.mark.parametrize("ablation", ["mean", "zero", "task_mean"])
def test_the_ablation_is_that_of_pruning(plant: planted.Planted, ablation: str, tmp_path: Path) -> None:
    parent = artifact.finish(tmp_path, "circuit", PruneConfig(ablation=ablation), {}, [])  # pyright: ignore
    found = verify(plant.model, replace(circuit_of(plant), artifact=parent), None, CONFIG)  # pyright: ignore
    assert {one.check: one.ablation for one in found.measurements if one.check in KNOWN} == {
        "sufficiency": ablation,
        "resample": "resample",
        "unpruned": "none",
        "necessity": ablation,
        "random": ablation,
    }
    (tmp_path / "config.json").write_text('{"ablation": "by force"}')
    with pytest.raises(UserError, match=r"config\.json is not the config of a circuit; prune again"):
        verify(plant.model, replace(circuit_of(plant), artifact=parent), None, CONFIG)  # pyright: ignore

"""Checks on planted circuits: enough, needed, and no accident of size."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import planted
import pytest
import torch

from thinwire import artifact
from thinwire.circuit import Calibration, Circuit
from thinwire.errors import UserError
from thinwire.prune import PruneConfig
from thinwire.prune.calibrate import fit_calibration
from thinwire.sites import Node, Site
from thinwire.tasks import TASKS, accuracy, last_logits, margin, margin_losses, task_loss
from thinwire.verify import CHECKS, Row, Subject, Verdict, VerifyConfig, verify
from thinwire.verify.random_circuits import _shuffled, random_circuits

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
    assert [row.name for row in verdict.rows] == list(CHECKS)
    assert {"unpruned", "sufficiency", "necessity", "random"} <= set(CHECKS)
    assert (verdict.task, verdict.nodes, verdict.edges) == (plant.planted.name, len(plant.nodes), len(plant.edges))
    assert math.isnan(verdict.target_loss)
    assert verdict.pairs == CONFIG.pairs
    assert verdict["unpruned"].loss < 0.05
    assert verdict["unpruned"].accuracy == 1
    assert verdict["sufficiency"].loss < 1e-3
    assert verdict["sufficiency"].accuracy == 1
    assert verdict["necessity"].loss >= GUESS - 1e-3
    assert verdict["necessity"].accuracy == pytest.approx(0.5, abs=0.02)
    assert verdict["random"].loss == pytest.approx(GUESS, abs=0.03)
    assert all(row.meaning.endswith(".") for row in verdict.rows)


def test_rows_are_measured_on_heldout_pairs(plant: planted.Planted, verdict: Verdict) -> None:
    circuit = circuit_of(plant)
    batch = plant.planted.pairs(CONFIG.pairs, "heldout", CONFIG.seed)
    whole, without = (last_logits(plant.model, batch, tap=tap) for tap in (lambda s, x: x, circuit.removed_tap()))
    assert verdict["unpruned"].loss == pytest.approx(task_loss(whole, batch).item(), abs=1e-6)
    assert verdict["necessity"].loss == pytest.approx(task_loss(without, batch).item(), abs=1e-6)
    assert verdict["necessity"].accuracy == pytest.approx(accuracy(without, batch).item())
    only = circuit.calibration.apply(margin(last_logits(plant.model, batch, tap=circuit.to_tap()), batch))
    assert verdict["sufficiency"].loss == pytest.approx(margin_losses(only).mean().item(), abs=1e-6)


def test_random_row_is_the_median_of_its_losses(verdict: Verdict) -> None:
    row = verdict["random"]
    assert len(row.losses) == CONFIG.random_circuits
    assert list(row.losses) == sorted(row.losses)
    assert row.loss == row.losses[len(row.losses) // 2]


def test_random_circuits_have_as_many_nodes_at_every_site() -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(40) < 7
    shuffled = [_shuffled(mask, generator) for _ in range(200)]
    assert all(int(s.sum()) == 7 for s in shuffled)
    often = torch.stack(shuffled).float().mean(0)
    assert often.min() > 0.05
    assert often.max() < 0.35
    assert (mask == (torch.arange(40) < 7)).all()


def test_same_seed_same_verdict(plant: planted.Planted, verdict: Verdict) -> None:
    assert verify(plant.model, circuit_of(plant), None, CONFIG).rows == verdict.rows  # pyright: ignore


def test_circuit_of_the_wrong_nodes_is_neither_enough_nor_needed(plant: planted.Planted) -> None:
    wrong = tuple(Node(node.site, 3) for node in plant.nodes)
    circuit = replace(circuit_of(plant), nodes=wrong, calibration=Calibration())
    verdict = verify(plant.model, circuit, None, CONFIG)  # pyright: ignore
    assert verdict["sufficiency"].loss > 0.6
    assert verdict["necessity"].loss < 0.1


def test_random_circuit_that_contains_the_whole_model_is_enough(plant: planted.Planted) -> None:
    """Each has its own calibration, fitted on pairs of the train split."""
    sites = circuit_of(plant).keep
    everything = tuple(Node(site, i) for site, mask in sites.items() for i in range(len(mask)))
    pairs = plant.planted.pairs
    subject = Subject(
        plant.model,
        replace(circuit_of(plant), nodes=everything),
        pairs(32, "heldout", 0),
        pairs(32, "train", 0),
        VerifyConfig(random_circuits=3, seed=0),
    )
    row = random_circuits(subject)
    assert row.loss < 1e-3
    assert len(set(row.losses)) == 1


def test_round_trip(verdict: Verdict, plant: planted.Planted, tmp_path: Path) -> None:
    (tmp_path / "circuit").mkdir()
    parent = artifact.finish(tmp_path / "circuit", "circuit", PruneConfig(), {}, [])
    known = replace(verdict, target_loss=0.15)
    known.save(tmp_path / "verdict", CONFIG, parent)
    assert Verdict.load(tmp_path / "verdict") == known
    opened = artifact.open_artifact(tmp_path / "verdict", "verdict")
    assert opened.meta.parents == {"circuit": parent.id}
    assert opened.config(VerifyConfig) == CONFIG
    for text in ("", "[]", "{}", '{"rows": 3}', '{"rows": [{}]}'):
        (tmp_path / "verdict/verdict.json").write_text(text)
        with pytest.raises(UserError, match="missing, truncated or altered"):
            Verdict.load(tmp_path / "verdict")
        artifact.finish(tmp_path / "verdict", "verdict", CONFIG, {"circuit": parent}, ["verdict.json"])
        with pytest.raises(UserError, match="does not hold a readable verdict; verify again"):
            Verdict.load(tmp_path / "verdict")


def test_unknown_row_is_a_key_error(verdict: Verdict) -> None:
    verdict = replace(verdict, rows=(Row("one", "It is.", 0.5, 1.0),))
    assert verdict["one"].loss == 0.5
    with pytest.raises(KeyError):
        verdict["two"]


def test_model_of_another_shape_is_refused(plant: planted.Planted) -> None:
    other = replace(circuit_of(plant), shape=planted.SHAPE.replace(n_layers=1))
    with pytest.raises(UserError, match="belongs to a model of another shape"):
        verify(plant.model, other, None, CONFIG)  # pyright: ignore


def test_progress_is_reported(plant: planted.Planted) -> None:
    seen: list[tuple[int, int]] = []
    circuit = circuit_of(plant)
    verify(plant.model, circuit, None, CONFIG, lambda done, of, status: seen.append((done, of)))  # pyright: ignore
    assert seen == [(i + 1, len(CHECKS)) for i in range(len(CHECKS))]


def test_site_without_nodes_keeps_nothing() -> None:
    assert not _shuffled(torch.zeros(5, dtype=torch.bool), torch.Generator()).any()
    assert Site.parse("0.attn.q") in circuit_of(planted.mlp()).keep

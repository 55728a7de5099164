"""Pruning with the scales of the whole model: every stage measures the same circuit, and planted ones are found."""

from pathlib import Path
from typing import cast

import planted
import pytest
import torch
from test_passes import batch_of, means_of
from tiny import tiny_model
from torch import Tensor

from thinwire import artifact
from thinwire.circuit import Circuit, weight_edges
from thinwire.data import Tokenizer
from thinwire.model import Transformer
from thinwire.model.taps import ablate
from thinwire.prune import PruneConfig, passes
from thinwire.prune.attribution import removal_effects
from thinwire.prune.edge_masks import EdgeMasks
from thinwire.prune.masks import NodeMasks
from thinwire.prune.passes import Parts, Passes, Replaceable
from thinwire.prune.run import prune
from thinwire.sites import Site
from thinwire.tasks import TASKS, PairBatch, last_logits, margin, margin_losses, norms_on, sequence_losses
from thinwire.train import TrainConfig
from thinwire.verify import VerifyConfig, verify
from thinwire.view.behaviour import behaviour

pytestmark = pytest.mark.usefixtures("in_float32")

FROZEN = PruneConfig(frozen_norms=True, train_pairs=64, validation_pairs=64, heldout_pairs=64, steps=60)
NO_TOKENIZER = cast(Tokenizer, None)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model(density=0.5, positions="concatenated").eval().requires_grad_(False)


@pytest.fixture(scope="module")
def means(model: Transformer) -> dict[Site, Tensor]:
    return means_of(model)


@pytest.fixture(scope="module")
def batch(model: Transformer) -> PairBatch:
    return batch_of(model)


def circuit_of(model: Transformer, means: dict[Site, Tensor], masks: NodeMasks, row: Tensor) -> Circuit:
    kept = tuple(node for (node,), value in zip(masks.units, row.tolist(), strict=True) if value)
    return Circuit("frozen", model.config, kept, means, frozen_norms=True)


def margins_of(circuit: Circuit, model: Transformer, batch: PairBatch) -> Tensor:
    """The circuit in one plain pass over all pairs."""
    norms = circuit.norms(model, batch)
    return margin(last_logits(circuit.cut_model(model), batch, circuit.to_tap(), norms=norms), batch)


def test_folded_trials_are_the_circuits_they_stand_for(model: Transformer, means: dict, batch: PairBatch) -> None:
    masks = NodeMasks(model, means, FROZEN)
    hard = (torch.rand(3, masks.n, generator=torch.Generator().manual_seed(0)) < 0.6).float()
    for row, found in zip(hard, masks.margins(hard, batch), strict=True):
        circuit = circuit_of(model, means, masks, row)
        torch.testing.assert_close(found, margins_of(circuit, model, batch), rtol=1e-4, atol=1e-5)
        own = margin(last_logits(model, batch, circuit.to_tap()), batch)
        assert not torch.allclose(found, own, atol=1e-2)


def test_nothing_removed_is_the_model_itself(model: Transformer, means: dict, batch: PairBatch) -> None:
    masks = NodeMasks(model, means, FROZEN)
    whole = margin(last_logits(model, batch), batch)
    torch.testing.assert_close(masks.margins(torch.ones(1, masks.n), batch)[0], whole, rtol=1e-5, atol=1e-5)


def test_masks_of_weights_are_the_circuit_they_stand_for(model: Transformer, means: dict, batch: PairBatch) -> None:
    masks = EdgeMasks(model, means, frozen_norms=True)
    hard = (torch.rand(2, masks.n, generator=torch.Generator().manual_seed(1)) < 0.7).float()
    for row, found in zip(hard, masks.margins(hard, batch), strict=True):
        kept_edges = tuple(edge for edge, kept in zip(masks.units, row.tolist(), strict=True) if kept)
        nodes = tuple(sorted({node for edge in kept_edges for node in edge}))
        circuit = Circuit("frozen", model.config, nodes, means, kept_edges=kept_edges, frozen_norms=True)
        torch.testing.assert_close(found, margins_of(circuit, model, batch), rtol=1e-4, atol=1e-5)


def test_candidates_in_any_order(
    model: Transformer, means: dict, batch: PairBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "CHUNK", 4)
    nodes = frozenset(node for (node,) in NodeMasks(model, means, FROZEN).units if node.index % 4)
    parts = Parts(nodes, frozenset(edge.ends for edge in weight_edges(model, nodes)))
    runs = Passes(Replaceable(model), means, batch, frozen_norms=True)
    runs.start_from(parts)
    late = [node for node in sorted(nodes) if node.site.layer == 1]
    assert parts.kept_edges is not None
    for gone in ([], late[:3], sorted(parts.kept_edges)[-5:], late[-2:]):
        candidate = parts.without(gone)
        assert candidate.kept_edges is not None
        kept_edges, nodes = tuple(candidate.kept_edges), tuple(sorted(candidate.nodes))
        circuit = Circuit("frozen", model.config, nodes, means, kept_edges=kept_edges, frozen_norms=True)
        torch.testing.assert_close(runs.margins(candidate), margins_of(circuit, model, batch), rtol=1e-4, atol=1e-5)


def test_attribution_is_the_slope_under_frozen_scales(model: Transformer, means: dict, batch: PairBatch) -> None:
    """By differences, for a few nodes that nothing sparsified stands between."""
    model = tiny_model(active_fraction=1.0).double().requires_grad_(False)
    ablated = {site: torch.zeros(site.width(model.config), dtype=torch.float64) for site in means_of(model)}
    masks = NodeMasks(model, ablated, FROZEN)
    found, norms, step = removal_effects(masks, batch), norms_on(model, batch, frozen_norms=True), 1e-3
    for column in range(0, masks.n, 29):
        (node,) = masks.units[column]

        def loss(gate: float, node=node) -> Tensor:
            def tap(site: Site, x: Tensor) -> Tensor:
                scale = torch.ones(x.shape[-1], dtype=x.dtype)
                if site == node.site:
                    scale[node.index] = gate
                return x * scale

            return sequence_losses(last_logits(model, batch, tap, norms=norms), batch)

        slope = (loss(1 + step) - loss(1 - step)) / (2 * step)
        torch.testing.assert_close(found[:, column], -slope, rtol=2e-2, atol=2e-4)


def test_planted_circuit_is_found_kept_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant = planted.mlp()
    monkeypatch.setitem(TASKS._entries, plant.planted.name, plant.task)
    found = prune(plant.model, plant.task, NO_TOKENIZER, plant.means, FROZEN)
    assert (found.nodes, found.frozen_norms) == (plant.nodes, True)
    (tmp_path / "model").mkdir()
    parent = artifact.finish(tmp_path / "model", "model", TrainConfig(), {}, [])
    found.save(tmp_path / "circuit", FROZEN, parent)
    loaded = Circuit.load(tmp_path / "circuit")
    assert loaded.frozen_norms
    checked = VerifyConfig(pairs=32, random_circuits=3)
    pairs = plant.planted.pairs(checked.pairs, "heldout", checked.seed)
    kept = loaded.calibration.apply(margins_of(loaded, plant.model, pairs))
    verdict = verify(plant.model, loaded, NO_TOKENIZER, checked)
    losses = margin_losses(kept)
    assert verdict["sufficiency.loss"].value < FROZEN.target_loss
    assert verdict["sufficiency.loss"].value == pytest.approx(losses.mean().item(), abs=1e-6)
    without = last_logits(plant.model, pairs, loaded.removed_tap(), norms=loaded.norms(plant.model, pairs))
    assert verdict["necessity.loss"].value == pytest.approx(sequence_losses(without, pairs).mean().item(), abs=1e-6)
    shown = behaviour(plant.model, loaded, pairs, 100)
    assert shown.p_circuit == pytest.approx(kept.sigmoid().numpy(), abs=1e-6)
    for node in loaded.nodes:
        keep = {**loaded.keep, node.site: loaded.keep[node.site].clone()}
        keep[node.site][node.index] = False
        norms = loaded.norms(plant.model, pairs)
        less = margin(last_logits(plant.model, pairs, ablate(keep, loaded.means), norms=norms), pairs)
        rise = margin_losses(loaded.calibration.apply(less)).mean() - losses.mean()
        assert shown.strengths[node] == pytest.approx(rise.item(), abs=1e-5)

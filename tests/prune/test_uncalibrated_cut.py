"""Circuits that meet the target without calibration: the paper's loss throughout."""

import planted
import pytest
import torch

from thinwire.circuit import Calibration
from thinwire.prune import PruneConfig, prune
from thinwire.prune.reach import TargetMissed
from thinwire.tasks import accuracy_of, auc_of, loss_of

CONFIG = PruneConfig(steps=60, trials=1, train_pairs=64, validation_pairs=32, heldout_pairs=32)


def biased(by: float) -> planted.Planted:
    """A planted circuit in a model that also prefers the first answer by so much."""
    plant = planted.chain()
    plant.model.unembedding.bias[planted.X] += by  # pyright: ignore
    return plant


@pytest.mark.parametrize("cut", ["calibrated", "uncalibrated"])
def test_scores_are_of_both_losses_on_the_heldout_draw(cut: str) -> None:
    plant = biased(0.0)
    circuit = prune(plant.model, plant.task, None, plant.means, CONFIG.replace(cut=cut, seed=5))  # pyright: ignore
    scores = circuit.scores
    assert scores is not None
    assert (circuit.calibration == Calibration()) == (cut == "uncalibrated")
    with torch.no_grad():
        own = circuit.margins(plant.model, plant.planted.pairs(32, "heldout", 0))
    calibrated = circuit.calibration.apply(own)
    expected = (loss_of(calibrated), accuracy_of(calibrated), loss_of(own), accuracy_of(own), auc_of(own))
    found = (scores.heldout_loss, scores.heldout_accuracy, scores.uncalibrated_loss, scores.uncalibrated_accuracy)
    assert [*found, scores.auc] == pytest.approx([value.item() for value in expected], abs=1e-6)
    assert scores.heldout_pairs == 32
    assert scores.loss <= CONFIG.validation_target


def test_a_model_that_only_a_shift_makes_right_has_a_calibrated_circuit_alone() -> None:
    plant = biased(40.0)
    circuit = prune(plant.model, plant.task, None, plant.means, CONFIG)  # pyright: ignore
    assert circuit.scores is not None
    assert (circuit.scores.heldout_accuracy, circuit.scores.uncalibrated_accuracy) == (1, 0.5)
    with pytest.raises(TargetMissed, match="The whole model has loss"):
        prune(plant.model, plant.task, None, plant.means, CONFIG.replace(cut="uncalibrated"))  # pyright: ignore

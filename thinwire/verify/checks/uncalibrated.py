"""What does the circuit do by itself? The circuit alone, without the scale and shift that pruning fitted."""

from dataclasses import replace

from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import Condition, Shift, auc, mean_accuracy, mean_loss
from thinwire.verify.measurement import Headline, Measurement
from thinwire.verify.thresholds import OWN_ACCURACY

MEANING = (
    "Only the circuit is left, and the log-odds of the answers are its own, without the calibration. A circuit whose "
    "accuracy is one half here says the same answer to every prompt: the calibration's shift makes it right. The AUC "
    "is the probability that the log-odds of the first answer are higher where it is right than where it is wrong. The "
    "calibration does not change it; guessing has one half."
)


@check("uncalibrated", order=12)
def uncalibrated(inputs: CheckInput) -> list[Measurement]:
    """Loss, accuracy and AUC of the circuit alone, logits not calibrated."""
    condition = Condition("uncalibrated", "circuit alone, uncalibrated", inputs.ablation, len(inputs.heldout))
    own, seed = inputs.alone(), inputs.config.seed
    accuracy, calibration = mean_accuracy(own, condition), inputs.circuit.calibration
    shift = Shift(accuracy, mean_accuracy(calibration.apply(own), condition), calibration.shift)
    return [
        replace(mean_loss(own, condition, MEANING, seed), headline=Headline("uncalibrated loss", "uncalibrated_loss")),
        replace(_judged(accuracy, shift), headline=Headline("uncalibrated accuracy", "uncalibrated_accuracy")),
        replace(auc(own, condition, seed), headline=Headline("AUC", "auc")),
    ]


def _judged(accuracy: Measurement, shift: Shift) -> Measurement:
    """The circuit's own accuracy held against its threshold; where it misses, what the calibration does is said."""
    held = accuracy.held_against(OWN_ACCURACY)
    if held.status == "pass":
        return held
    return replace(
        held, reason=f"{held.reason}, {shift.after.value:.3f} after the calibration's shift of {shift.shift:.3g}"
    )

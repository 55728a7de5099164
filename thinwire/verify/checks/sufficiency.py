"""Is the circuit enough? The model with only the circuit (Gao et al. 2025, A.5)."""

from dataclasses import replace

from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import Condition, Shift, against_target, mean_accuracy, mean_loss
from thinwire.verify.measurement import Headline, Judgement, Measurement, Threshold

MEANING = (
    "Only the circuit is left: every other node is ablated, and the log-odds of the answers are calibrated. A low loss "
    "means that the circuit is enough for the task. It passes at the target loss or below, unless answers are right "
    "only after the calibration's shift."
)


@check("sufficiency", order=10)
def sufficiency(inputs: CheckInput) -> list[Measurement]:
    """Loss and accuracy of the model with every node and edge outside the circuit ablated, logits calibrated."""
    circuit = inputs.circuit
    condition = Condition("sufficiency", "circuit alone", inputs.ablation, len(inputs.heldout))
    own = inputs.alone()
    margins = circuit.calibration.apply(own)
    loss, accuracy = mean_loss(margins, condition, MEANING, inputs.config.seed), mean_accuracy(margins, condition)
    shift = Shift(mean_accuracy(own, condition), accuracy, circuit.calibration.shift)
    loss = loss.judged(shift.limits(against_target(loss.value, inputs.target_loss)))
    if inputs.target_loss is not None:
        loss = replace(loss, threshold=Threshold(inputs.target_loss))
    accuracy = accuracy.judged(shift.limits(Judgement("info", "")))
    return [
        replace(loss, headline=Headline("circuit alone", "loss")),
        replace(accuracy, headline=Headline("accuracy", "accuracy")),
    ]

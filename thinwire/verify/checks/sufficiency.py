"""Is the circuit enough? The model with only the circuit (Gao et al. 2025, A.5)."""

from dataclasses import replace

from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import Condition, against_target, mean_accuracy, mean_loss
from thinwire.verify.measurement import Headline, Measurement

MEANING = (
    "Only the circuit is left: every other node is ablated, and the log-odds of the answers are calibrated. A low loss "
    "means that the circuit is enough for the task. It passes at the target loss or below."
)


@check("sufficiency", order=10)
def sufficiency(inputs: CheckInput) -> list[Measurement]:
    """Loss and accuracy of the model with every node and edge outside the circuit ablated, logits calibrated."""
    circuit = inputs.circuit
    condition = Condition("sufficiency", "circuit alone", inputs.ablation, len(inputs.heldout))
    margins = inputs.margins(inputs.heldout, circuit.to_tap(), circuit.cut_model(inputs.model))
    margins = circuit.calibration.apply(margins)
    loss = mean_loss(margins, condition, MEANING, inputs.config.seed)
    loss = loss.judged(against_target(loss.value, inputs.target_loss))
    return [
        replace(loss, headline=Headline("circuit alone", "loss")),
        replace(mean_accuracy(margins, condition), headline=Headline("accuracy", "accuracy")),
    ]

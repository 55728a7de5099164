"""Is the circuit needed? The model with the circuit removed and everything else intact (Gao et al. 2025, Fig. 32)."""

from dataclasses import replace

from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import Condition, against_guessing, mean_accuracy, mean_loss
from thinwire.verify.measurement import Headline, Measurement

MEANING = (
    "The circuit's nodes are ablated and all others are intact. Guessing gives 0.693 nats. At 97 % of that or above, "
    "it passes: the model needs the circuit."
)


@check("necessity", order=30)
def necessity(inputs: CheckInput) -> list[Measurement]:
    """Loss and accuracy of the model with the circuit's nodes ablated, not calibrated."""
    condition = Condition("necessity", "circuit removed", inputs.ablation, len(inputs.heldout))
    margins = inputs.margins(inputs.heldout, inputs.circuit.removed_tap())
    loss = mean_loss(margins, condition, MEANING, inputs.config.seed)
    loss = loss.judged(against_guessing(loss.value))
    return [replace(loss, headline=Headline("circuit removed", "necessity_loss")), mean_accuracy(margins, condition)]

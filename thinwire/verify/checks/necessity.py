"""Is the circuit needed? The model with the circuit removed and everything else intact (Gao et al. 2025, Fig. 32)."""

from dataclasses import replace

from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import GUESSING, Condition, auc, mean_accuracy, mean_loss
from thinwire.verify.measurement import Headline, Measurement
from thinwire.verify.thresholds import REMOVED_LOSS

MEANING = (
    "The circuit's nodes are ablated and all others are intact. The loss is uncalibrated: guessing has "
    f"{GUESSING:.3f} nats, and an answer that is always the same more."
)
REFITTED = (
    "The same loss under the scale and shift that suit these pairs best: an offset alone does not raise it. Far below "
    f"the {GUESSING:.3f} nats of guessing, the model does the task in another way too, and does not need this circuit."
)


@check("necessity", order=30)
def necessity(inputs: CheckInput) -> list[Measurement]:
    """Loss, AUC and accuracy of the model with the circuit's nodes ablated; the loss with and without calibration."""
    seed = inputs.config.seed
    condition = Condition("necessity", "circuit removed", inputs.ablation, len(inputs.heldout))
    margins = inputs.margins(inputs.heldout, inputs.circuit.removed_tap())
    refitted = mean_loss(inputs.refitted(margins), condition, REFITTED, seed, "refitted loss")
    loss = mean_loss(margins, condition, MEANING, seed)
    return [
        refitted.held_against(REMOVED_LOSS),
        replace(loss, headline=Headline("circuit removed", "necessity_loss")),
        replace(auc(margins, condition, seed), headline=Headline("AUC removed", "removed_auc")),
        mean_accuracy(margins, condition),
    ]

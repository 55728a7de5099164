"""Is the circuit needed? The model with the circuit removed and everything else intact (Gao et al. 2025, Fig. 32)."""

from dataclasses import replace

from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import GUESSING, Condition, auc, mean_accuracy, mean_loss
from thinwire.verify.measurement import Headline, Measurement
from thinwire.verify.thresholds import REMOVED_AUC

MEANING = (
    "The circuit's nodes are ablated and all others are intact. An AUC far above one half means that the model does "
    "the task in another way too, and does not need this circuit. The loss is uncalibrated: guessing has "
    f"{GUESSING:.3f} nats, and an answer that is always the same more."
)
REFITTED = "The same loss under the scale and shift that suit these pairs best: an offset alone does not raise it."


@check("necessity", order=30)
def necessity(inputs: CheckInput) -> list[Measurement]:
    """AUC, loss and accuracy of the model with the circuit's nodes ablated; the loss without and with calibration."""
    condition, seed = (
        Condition("necessity", "circuit removed", inputs.ablation, len(inputs.heldout)),
        inputs.config.seed,
    )
    margins = inputs.margins(inputs.heldout, inputs.circuit.removed_tap())
    loss = mean_loss(margins, condition, MEANING, seed)
    return [
        replace(
            auc(margins, condition, seed).held_against(REMOVED_AUC), headline=Headline("AUC removed", "removed_auc")
        ),
        replace(loss, headline=Headline("circuit removed", "necessity_loss")),
        mean_loss(inputs.refitted(margins), condition, REFITTED, seed, "refitted loss"),
        mean_accuracy(margins, condition),
    ]

"""Is the circuit needed? The model with the circuit removed and everything else intact (Gao et al. 2025, Fig. 32)."""

from dataclasses import replace

from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import GUESSING, Condition, against_guessing, auc, mean_accuracy, mean_loss
from thinwire.verify.measurement import Headline, Judgement, Measurement
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
    refitted = mean_loss(inputs.refitted(margins), condition, REFITTED, seed, "refitted loss")
    area = auc(margins, condition, seed).held_against(REMOVED_AUC)
    if area.status != "pass" and against_guessing(refitted.value).status == "pass":
        # an AUC knows no size: differences of a thousandth of a nat, which norms leave behind, are no way to do a task
        area = area.judged(Judgement("pass", "no better than guessing under the best calibration"))
    return [
        replace(area, headline=Headline("AUC removed", "removed_auc")),
        replace(loss, headline=Headline("circuit removed", "necessity_loss")),
        refitted,
        mean_accuracy(margins, condition),
    ]

"""Do the norms do the circuit's work? The circuit with the RMSNorm scales of the whole model."""

import torch

from thinwire.tasks import last_logits, margin, norms_on
from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import Condition, auc, mean_accuracy, mean_loss
from thinwire.verify.measurement import Measurement, Threshold
from thinwire.verify.thresholds import FROZEN_NORMS

MEANING = (
    "Only the circuit is left, and every RMSNorm divides by what it divides by in the whole model on the same prompt, "
    "under the scale and shift that suit these pairs best. Ablation shrinks the residual stream, and the norms amplify "
    "what is left. A loss far above that of the circuit alone means that it needs this amplification."
)


@check("frozen_norms", order=21)
@torch.no_grad()
def frozen_norms(inputs: CheckInput) -> list[Measurement]:
    """Refitted loss and accuracy, and AUC, of the circuit alone with the norm scales of the whole model."""
    batch, seed = inputs.exchanged, inputs.config.seed
    norms = norms_on(inputs.model, batch, frozen_norms=True)
    own = margin(last_logits(inputs.cut, batch, inputs.circuit.to_tap(), norms=norms), batch)
    condition = Condition("frozen_norms", "frozen norms", inputs.ablation, len(batch))
    margins = inputs.refitted(own)
    loss = mean_loss(margins, condition, MEANING, seed, "refitted loss")
    if inputs.target_loss is not None:
        loss = loss.held_against(Threshold(FROZEN_NORMS * inputs.target_loss))
    return [loss, auc(own, condition, seed), mean_accuracy(margins, condition)]

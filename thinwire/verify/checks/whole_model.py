"""What the whole model does on the same pairs: the other checks are read against it."""

from dataclasses import replace

from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import Condition, mean_accuracy, mean_loss
from thinwire.verify.measurement import Headline, Measurement

MEANING = "The model as trained, with nothing removed. Read the other losses against this one."
REFITTED = (
    "The whole model under the scale and shift that suit these pairs best. Compare a calibrated circuit with this, not "
    "with the loss above."
)


@check("unpruned", order=20)
def unpruned(inputs: CheckInput) -> list[Measurement]:
    """Loss and accuracy of the whole model; the loss without and with calibration."""
    condition, seed = Condition("unpruned", "whole model", "none", len(inputs.heldout)), inputs.config.seed
    margins = inputs.whole
    loss = mean_loss(margins, condition, MEANING, seed)
    return [
        replace(loss, headline=Headline("whole model", "unpruned_loss")),
        mean_loss(inputs.refitted(margins), condition, REFITTED, seed, "refitted loss"),
        mean_accuracy(margins, condition),
    ]

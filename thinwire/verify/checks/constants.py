"""Does the circuit survive other constants outside? Nodes outside stand at zero, or at their means over the task."""

import torch
from torch import Tensor

from thinwire.model.taps import ablate
from thinwire.prune.config import Ablation
from thinwire.prune.means import ablation_values
from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import Condition, auc, mean_accuracy, mean_loss
from thinwire.verify.measurement import Measurement
from thinwire.verify.thresholds import EXCHANGED_AUC, EXCHANGED_LOSS

MEAN_PAIRS = 64
"""Training pairs over which the means of the task are taken."""
ZERO = (
    "Only the circuit is left, and every other node is zero, under the scale and shift that suit these pairs best: no "
    "node is zero on average, so an offset is no fault. Zeros also shrink the residual stream, which the norms undo."
)
TASK_MEAN = (
    "Only the circuit is left, and every other node is at its mean over the task's training prompts, which knows the "
    "task but not the answer. The log-odds are calibrated as for the circuit alone. A loss far above that of the "
    "circuit alone means that it needs the nodes outside to stand where they stand on average over other texts."
)


@check("zero", order=22)
def zero(inputs: CheckInput) -> list[Measurement]:
    """Refitted loss, accuracy and AUC with every node outside at zero."""
    condition = Condition("zero", "zeros outside", "zero", len(inputs.exchanged))
    own, seed = _margins(inputs, "zero"), inputs.config.seed
    margins = inputs.refitted(own)
    return [
        auc(own, condition, seed).held_against(EXCHANGED_AUC),
        mean_loss(margins, condition, ZERO, seed, "refitted loss"),
        mean_accuracy(margins, condition),
    ]


@check("task_mean", order=14)
def task_mean(inputs: CheckInput) -> list[Measurement]:
    """Calibrated loss and accuracy, and AUC, with every node outside at its mean over the task's prompts."""
    condition = Condition("task_mean", "task means outside", "task_mean", len(inputs.exchanged))
    own, seed = _margins(inputs, "task_mean"), inputs.config.seed
    margins = inputs.calibration.apply(own)
    return [
        mean_loss(margins, condition, TASK_MEAN, seed).held_against(EXCHANGED_LOSS),
        auc(own, condition, seed).held_against(EXCHANGED_AUC),
        mean_accuracy(margins, condition),
    ]


def _margins(inputs: CheckInput, ablation: Ablation) -> Tensor:
    """The margins [2n] with the nodes outside at other constants, not calibrated."""
    few = inputs.fit.take(torch.arange(min(len(inputs.fit), MEAN_PAIRS), dtype=torch.int64, device="cpu"))
    values = ablation_values(inputs.model, inputs.circuit.means, few, ablation)
    return inputs.margins(inputs.exchanged, ablate(inputs.circuit.keep, values), inputs.cut)

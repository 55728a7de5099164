"""Whether the whole model meets the target, without which no circuit can be expected to."""

import torch

from thinwire.errors import UserError
from thinwire.model.transformer import Transformer
from thinwire.prune.calibrate import fit_calibration
from thinwire.prune.config import PruneConfig
from thinwire.tasks import PairBatch, Task, last_logits, loss_of, margin


class TargetMissed(UserError):
    """No circuit reaches the target loss, perhaps because the whole model does not."""


def within_reach(model: Transformer, task: Task, validation: PairBatch, config: PruneConfig) -> PruneConfig:
    """The config; if the whole model misses its aim, with one halfway between the model's loss and the target.

    The loss is calibrated if that of circuits is. Raises TargetMissed when it is above the target, since no circuit can
    then be expected to meet it.
    """
    with torch.no_grad():
        margins = margin(last_logits(model, validation), validation)
    if config.calibrates:
        margins = fit_calibration(margins, config.max_logit_scale).apply(margins)
    loss = loss_of(margins).item()
    if loss >= config.target_loss:
        raise TargetMissed(
            f"The whole model has loss {loss:.3f} on {task.name} and the target is {config.target_loss:g} on "
            "validation pairs; train it longer, or raise target_loss."
        )
    if loss <= config.validation_target:
        return config
    return config.replace(aim=(loss / config.target_loss + 1) / 2)

"""The default objective: cross-entropy, and the divergence from a teacher if there is one."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from thinwire.model.precision import autocast
from thinwire.model.transformer import Transformer, next_token_loss
from thinwire.train.config import TrainConfig
from thinwire.train.objective import Losses, Objective, ObjectiveFactory


class LanguageObjective(Objective):
    """Next-token prediction. Its parts are `loss`, the cross-entropy, and, with a teacher, `divergence`.

    total = (1 - distill_weight) · loss + distill_weight · divergence; without a teacher, total = loss. The sparsifier's
    penalty is added to it, as in every objective.
    """

    def __init__(self, model: Transformer, config: TrainConfig, teacher: Transformer | None = None) -> None:
        super().__init__(model, config)
        self.references = [teacher] if teacher else []

    def losses(self, batch: Tensor, compiled: Transformer | None = None) -> Losses:
        """Cross-entropy and divergence on a batch of tokens [batch, context + 1]; `compiled` is as in `compute`."""
        config, inputs, targets = self.config, batch[:, :-1], batch[:, 1:]
        logits = self.compute(lambda model: model(inputs, recompute=config.recompute), compiled)
        loss = total = next_token_loss(logits, targets)
        parts = {"loss": loss}
        for teacher in self.references:
            with torch.no_grad(), autocast(config.precision, batch.device):
                guide = teacher(inputs)
            parts["divergence"] = distillation_loss(logits, guide, config.distill_temperature)
            total = (1 - config.distill_weight) * loss + config.distill_weight * parts["divergence"]
        return Losses(total, parts)


class LanguageModeling(ObjectiveFactory):
    """Builds the default objective; its options are those of `TrainConfig`."""

    name: ClassVar[str] = "language_modeling"

    def build(self, model: Transformer, config: TrainConfig, teacher: Transformer | None) -> LanguageObjective:
        """The default objective of a run that trains `model`."""
        return LanguageObjective(model, config, teacher)


LANGUAGE_MODELING = LanguageModeling()
"""The factory of the default objective."""


def distillation_loss(logits: Tensor, guide: Tensor, temperature: float) -> Tensor:
    """Divergence KL(guide ‖ logits), a scalar in nats per token, times the temperature squared.

    `logits` and `guide`, those of the teacher, are [batch, pos, vocab]; both are divided by the temperature first.
    """
    ours = F.log_softmax(logits.float().flatten(0, -2) / temperature, -1)
    theirs = F.log_softmax(guide.float().flatten(0, -2) / temperature, -1)
    return F.kl_div(ours, theirs, log_target=True, reduction="batchmean") * temperature**2

"""What a step minimizes: the model, the way it becomes sparse, and a teacher if any, as one module with one loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from thinwire.model.precision import autocast
from thinwire.model.transformer import Transformer, next_token_loss
from thinwire.train.config import TrainConfig
from thinwire.train.sparsity import SPARSIFIERS, Sparsifier


@dataclass(frozen=True)
class Losses:
    """The parts of a training loss, scalars in nats per token."""

    total: Tensor
    cross_entropy: Tensor
    divergence: Tensor | None = None
    """From the teacher's predictions, before it is weighted."""
    penalty: Tensor | None = None


class Objective(nn.Module):
    """The training loss of a run as a module, so that it can be wrapped, moved and checkpointed as one."""

    def __init__(self, model: Transformer, config: TrainConfig, teacher: Transformer | None = None) -> None:
        super().__init__()
        self.config = config
        self.model = model
        self.sparsifier: Sparsifier = SPARSIFIERS[config.sparsity](model, config)
        self.teacher = [teacher] if teacher else []  # in a list: neither trained nor checkpointed

    def forward(self, batch: Tensor, twin: Transformer | None = None) -> Losses:
        """Losses on batch [batch, context + 1]; a `twin` on sparse kernels computes in place of the model, in fp32."""
        config, inputs, targets = self.config, batch[:, :-1], batch[:, 1:]
        weights = self.sparsifier.effective(self.model)
        with autocast(config.precision if twin is None else "fp32", batch.device):
            if weights:
                logits = functional_call(self.model, weights, (inputs,), {"recompute": config.recompute})
            else:
                logits = (twin or self.model)(inputs, recompute=config.recompute)
        with torch.no_grad(), autocast(config.precision, batch.device):
            guides = [teacher(inputs) for teacher in self.teacher]
        loss = total = next_token_loss(logits, targets)
        divergence = None
        for guide in guides:
            divergence = distillation_loss(logits, guide, config.distill_temperature)
            total = (1 - config.distill_weight) * loss + config.distill_weight * divergence
        penalty = self.sparsifier.penalty(self.model)
        return Losses(total if penalty is None else total + penalty, loss, divergence, penalty)

    @contextmanager
    def settled(self, step: int) -> Iterator[Transformer]:
        """Within the block, the model with the sparse weights that stand for the run after `step`."""
        apart = self.sparsifier.learns_apart
        before = {name: p.detach().clone() for name, p in self.model.named_parameters()} if apart else {}
        self.sparsifier.settle(self.model, step)
        try:
            yield self.model
        finally:
            with torch.no_grad():
                for name, value in before.items():
                    self.model.get_parameter(name).copy_(value)


def distillation_loss(logits: Tensor, guide: Tensor, temperature: float) -> Tensor:
    """Divergence KL(guide ‖ logits) in nats per token, both [batch, pos, vocab], times the temperature squared."""
    ours = F.log_softmax(logits.float().flatten(0, -2) / temperature, -1)
    theirs = F.log_softmax(guide.float().flatten(0, -2) / temperature, -1)
    return F.kl_div(ours, theirs, log_target=True, reduction="batchmean") * temperature**2

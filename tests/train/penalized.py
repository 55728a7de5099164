"""The objective that docs/training.md shows."""

from typing import ClassVar

import torch
from torch import nn

from thinwire.model import next_token_loss
from thinwire.train import Losses, Objective, ObjectiveFactory, ParameterGroup


class PenalizedObjective(Objective):
    """Cross-entropy with a learned scale of the logits, and a penalty on the mean magnitude of neurons."""

    def __init__(self, model, config, strength):
        super().__init__(model, config)
        self.strength = strength
        self.log_scale = nn.Parameter(torch.zeros(()))

    def groups(self):
        return (ParameterGroup((self.log_scale,), learning_rate=0.01),)

    def losses(self, batch, compiled=None):
        magnitudes = []

        def tap(site, x):
            if site.kind == "mlp.post_act":
                magnitudes.append(x.abs().mean())
            return x

        logits = self.compute(lambda model: model(batch[:, :-1], tap=tap), compiled)
        loss = next_token_loss(logits * self.log_scale.exp(), batch[:, 1:])
        activation = self.strength * torch.stack(magnitudes).mean()
        return Losses(loss + activation, {"loss": loss, "activation": activation, "scale": self.log_scale.exp()})


class Penalized(ObjectiveFactory):
    name: ClassVar[str] = "penalized"
    strength: float = 0.1

    def build(self, model, config, teacher):
        return PenalizedObjective(model, config, self.strength)

"""HardConcrete gates (Louizos et al. 2018): every weight has a random gate, and the loss pays for gates that may open.

1. The gate of a weight with parameter log_alpha is z = clip(s (1 + 2 stretch) - stretch, 0, 1) with
   s = sigmoid((log u - log(1 - u) + log_alpha) / temperature), u uniform: exactly 0 or 1 with positive probability.
2. The weights that compute are w · z. Without training, the gate is the same with s = sigmoid(log_alpha).
3. P(z > 0) = sigmoid(log_alpha - temperature · log(stretch / (1 + stretch))); its sum is the expected L0.
4. The penalty is multiplier · expected L0 / L0 budget. The multiplier is adjusted so that the ratio stays at 1 while
   the budget falls (`steering`).
5. The run ends with the gates of evaluation; if more than the budget are open, the largest gated weights stay.

Three difficulties of the plain form in this recipe (Gao et al. 2025, D), and what is done about each:

* An epsilon of 0.1 and a normalized gradient never move a gate. Gates have their own optimizer group with a rate and a
  small epsilon of their own, and are left out of the gradient's norm.
* A gate below 1 scales the gradient of its weight and adds noise in proportion to it. So the gradient of w is that of
  the product, unscaled, where the gate is open, and zero where it is closed; and gates start almost surely open
  (`initial`), so that noise comes only with closing.
* A multiplier far from the gradients' scale closes all gates, or none. It is relative to the budget, bounded, and
  reacts to the present error, since gates take many steps to close.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from thinwire.model.transformer import Transformer
from thinwire.train.config import TrainConfig
from thinwire.train.sparsity.base import SPARSIFIERS, Sparsifier, buffer_name
from thinwire.train.sparsity.options import HardConcreteOptions
from thinwire.train.sparsity.steering import Steering

HIGHEST = 0.5
"""Highest level of the multiplier, in nats for an expected L0 equal to the budget."""
GAIN = 20.0
"""How strongly the multiplier reacts to the present error."""


@SPARSIFIERS.register("hardconcrete")
class HardConcrete(Sparsifier):
    """Gates with a penalty on their expected number, whose multiplier is controlled."""

    trains_latent_weights = True
    options: HardConcreteOptions

    def __init__(self, model: Transformer, config: TrainConfig) -> None:
        super().__init__(model, config)
        self.learning_rate = min(self.options.travel / config.steps, 1.0)
        gates = {
            buffer_name(name): nn.Parameter(torch.full_like(p, self.options.initial)) for name, p in self.chosen(model)
        }
        self.log_alpha = nn.ParameterDict(gates)
        self.steering = Steering(config.steps, HIGHEST, GAIN)

    def effective(self, model: Transformer) -> dict[str, Tensor]:
        """Each chosen parameter times its gates, by name, in its shape.

        In training the noise of the gates is a function of the seed and the step.
        """
        noise = self.noise() if self.training else None
        return {name: gated(parameter, self.gate(name, noise)) for name, parameter in self.chosen(model)}

    def noise(self) -> torch.Generator:
        """The random number generator of the coming update."""
        seed = np.random.SeedSequence([self.config.seed, int(self.updates)]).generate_state(1, np.uint64)
        return torch.Generator(self.updates.device).manual_seed(int(seed[0]))

    def gate(self, name: str, noise: torch.Generator | None = None) -> Tensor:
        """Gates of the parameter called `name`, in its shape: sampled with `noise`; without it, those of evaluation."""
        log_alpha, stretch = self.log_alpha[buffer_name(name)], self.options.stretch
        if noise is None:
            s = torch.sigmoid(log_alpha)
        else:
            uniform = torch.empty_like(log_alpha.detach()).uniform_(1e-6, 1 - 1e-6, generator=noise)
            s = torch.sigmoid((torch.logit(uniform) + log_alpha) / self.options.temperature)
        return (s * (1 + 2 * stretch) - stretch).clamp(0, 1)

    def expected_l0(self) -> Tensor:
        """Expected number of gates that are not 0, a differentiable scalar."""
        shift = self.options.temperature * math.log(self.options.stretch / (1 + self.options.stretch))
        return torch.stack([torch.sigmoid(gates - shift).sum() for gates in self.log_alpha.values()]).sum()

    def penalty(self, model: Transformer) -> Tensor | None:
        """The multiplier times the expected L0, relative to the budget after this update."""
        if not len(self.log_alpha):
            return None
        return self.steering.pressure * self.expected_l0() / self.total_budget(model, int(self.updates) + 1)

    def after_step(self, model: Transformer, step: int) -> None:
        """Adjust the multiplier, once the budget is below the number of gates."""
        super().after_step(model, step)
        allowed = self.total_budget(model, step)
        if allowed < sum(gates.numel() for gates in self.log_alpha.values()):
            self.steering.follow(self.expected_l0().detach(), allowed)

    @torch.no_grad()
    def materialize(self, model: Transformer, step: int) -> None:
        """Replace the weights by the gated ones; after the last step at most as many as the budget are nonzero."""
        super().materialize(model, step)
        if step == self.config.steps:
            self.keep_largest_overall(model)


def gated(weight: Tensor, gate: Tensor) -> Tensor:
    """weight · gate; all three have one shape. The gradient of `weight` is unscaled where the gate is open, else 0."""
    return weight.detach() * gate + (weight - weight.detach()) * (gate.detach() > 0)

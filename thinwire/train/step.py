"""One optimizer step: loss, gradient, normalization, AdamW, sparsity."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.errors import UserError
from thinwire.model.transformer import Transformer
from thinwire.train.config import TrainConfig
from thinwire.train.l0 import density_at
from thinwire.train.objective import Objective
from thinwire.train.schedule import learning_rate_at


@dataclass
class State:
    """Everything that a step changes; together with the config and the tokens it determines the rest of the run."""

    objective: Objective
    optimizer: torch.optim.AdamW
    step: int = 0

    @property
    def model(self) -> Transformer:
        """The model whose parameters are trained."""
        return self.objective.model

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        self.objective.to(device)
        for moments in self.optimizer.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name] = moments[name].to(device)


@dataclass(frozen=True)
class StepReport:
    """What one step measured."""

    loss: float
    """Training cross-entropy before the update, nats per token."""
    gradient_rms: float
    """Root mean square of the raw gradient over all parameters of the model."""
    learning_rate: float
    density: float
    """Fraction of nonzeros that a matrix is allowed after the update."""
    divergence: float | None = None
    """From the teacher's predictions, nats per token."""
    penalty: float | None = None
    """What the way to sparsity added to the loss."""


def new_state(config: TrainConfig, start: Transformer | None = None, teacher: Transformer | None = None) -> State:
    """A fresh objective and optimizer; the weights are those of `start` where one is given."""
    model = Transformer(config.model, seed=config.seed)
    if start is not None:
        model.load_state_dict(start.state_dict())
    objective = Objective(model, config, teacher)
    matrices = [p for name, p in model.named_parameters() if _decays(name, p)]
    others = [p for name, p in model.named_parameters() if not _decays(name, p)]
    groups: list[dict] = [{"params": matrices, "weight_decay": config.weight_decay}]
    groups += [{"params": others, "weight_decay": 0.0}]
    betas = (config.beta1, config.beta2)
    return State(objective, torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=config.epsilon, fused=True))


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and name != "bigram.weight"


def train_step(state: State, batch: Tensor, config: TrainConfig) -> StepReport:
    """Advance `state` by one step on batch [batch, context + 1]. Raises UserError when the loss is not finite."""
    losses = state.objective(batch)
    state.optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    rms = normalize_gradient([p.grad for p in state.model.parameters() if p.grad is not None], config.gradient)
    if not (torch.isfinite(losses.total) and torch.isfinite(rms)):
        raise UserError(f"The loss stopped being finite at step {state.step}; lower learning_rate or raise epsilon.")
    rate = learning_rate_at(state.step, config)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    state.step += 1
    state.objective.sparsifier.after_step(state.model, state.step)
    return StepReport(
        loss=losses.cross_entropy.item(),
        gradient_rms=rms.item(),
        learning_rate=rate,
        density=density_at(state.step, config),
        divergence=None if losses.divergence is None else losses.divergence.item(),
        penalty=None if losses.penalty is None else losses.penalty.item(),
    )


@torch.no_grad()
def normalize_gradient(gradients: list[Tensor], how: str) -> Tensor:
    """Scale gradients in place by their global root mean square, as `TrainConfig.gradient` says; returns that RMS."""
    numel = sum(gradient.numel() for gradient in gradients)
    rms = torch.nn.utils.get_total_norm(gradients) / numel**0.5
    divisor = {"normalize": rms, "clip": rms.clamp(min=1.0), "none": torch.ones_like(rms)}[how]
    for gradient in gradients:
        gradient.div_(divisor)
    return rms

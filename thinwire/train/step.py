"""One optimizer step: loss, gradient, normalization, AdamW, projection."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.errors import UserError
from thinwire.model.precision import native_bf16
from thinwire.model.transformer import Transformer, next_token_loss
from thinwire.train.config import TrainConfig
from thinwire.train.l0 import density_at, project
from thinwire.train.schedule import learning_rate_at


@dataclass
class State:
    """Everything that a step changes; together with the config and the tokens it determines the rest of the run."""

    model: Transformer
    optimizer: torch.optim.AdamW
    step: int = 0


@dataclass(frozen=True)
class StepReport:
    """What one step measured."""

    loss: float
    """Training cross-entropy before the update, nats per token."""
    gradient_rms: float
    """Root mean square of the raw gradient over all parameters."""
    learning_rate: float
    density: float


def new_state(config: TrainConfig) -> State:
    """A fresh model and optimizer."""
    model = Transformer(config.model, seed=config.seed)
    matrices = [p for name, p in model.named_parameters() if _decays(name, p)]
    others = [p for name, p in model.named_parameters() if not _decays(name, p)]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (config.beta1, config.beta2)
    return State(model, torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=config.epsilon, fused=True))


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and name != "bigram.weight"


def train_step(state: State, batch: Tensor, config: TrainConfig) -> StepReport:
    """Advance `state` by one step on batch [batch, context + 1]. Raises UserError when the loss is not finite."""
    device = batch.device.type
    with torch.autocast(device, torch.bfloat16, enabled=uses_bf16(config, device)):
        logits = state.model(batch[:, :-1], recompute=config.recompute)
    loss = next_token_loss(logits, batch[:, 1:])
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    rms = normalize_gradient([p.grad for p in state.model.parameters() if p.grad is not None], config.gradient)
    if not (torch.isfinite(loss) and torch.isfinite(rms)):
        raise UserError(f"The loss stopped being finite at step {state.step}; lower learning_rate or raise epsilon.")
    rate, density = learning_rate_at(state.step, config), density_at(state.step + 1, config)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    project(state.model, density, config.floor)
    state.step += 1
    return StepReport(loss.item(), rms.item(), rate, density)


@torch.no_grad()
def normalize_gradient(gradients: list[Tensor], how: str) -> Tensor:
    """Scale gradients in place by their global root mean square, as `TrainConfig.gradient` says; returns that RMS."""
    numel = sum(gradient.numel() for gradient in gradients)
    rms = torch.nn.utils.get_total_norm(gradients) / numel**0.5
    divisor = {"normalize": rms, "clip": rms.clamp(min=1.0), "none": torch.ones_like(rms)}[how]
    for gradient in gradients:
        gradient.div_(divisor)
    return rms


def uses_bf16(config: TrainConfig, device: str) -> bool:
    """Whether matrices are multiplied in bf16 on this type of device."""
    if config.precision == "auto":
        return native_bf16(device)
    return config.precision == "bf16"

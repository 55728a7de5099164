"""Train masks against task loss plus pressure on the number of nodes (A.5, step 3)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from thinwire.model.precision import native_bf16
from thinwire.model.transformer import Transformer
from thinwire.progress import Report
from thinwire.prune.config import PruneConfig
from thinwire.prune.masks import NodeMasks, fold, mask_tap
from thinwire.sites import Site
from thinwire.tasks import PairBatch, last_logits, margin, margin_losses
from thinwire.train.schedule import linear_rate

RUNNING = 0.9
"""Weight of the past in the running loss that the controlled pressure looks at."""


class Pressure:
    """Loss per kept node, one value a trial [trials]: constant, or steered towards the target loss.

    A constant is brittle: a little too much and every mask goes negative, which leaves a ranking without meaning. The
    controlled form raises the pressure while the task has loss to spare and lowers it otherwise.
    """

    def __init__(self, config: PruneConfig) -> None:
        self.config = config
        self.value = torch.full((config.trials,), config.k_coef)
        self.running: Tensor | None = None

    def update(self, losses: Tensor) -> None:
        """Look at the task losses [trials] of a step."""
        self.running = losses if self.running is None else RUNNING * self.running + (1 - RUNNING) * losses
        if self.config.sparsity == "controlled":
            below = self.running < self.config.validation_target
            self.value = self.value * torch.where(below, self.config.k_coef_up, self.config.k_coef_down)
            self.value = self.value.clamp(min=self.config.k_coef)

    @property
    def push(self) -> Tensor:
        """Loss per kept node in the next step [trials]; negative, to bring nodes back, where the target is missed.

        Without that, masks that all went negative would stay so: no node on a broken path has a gradient of its own.
        """
        if self.running is None or self.config.sparsity == "fixed":
            return self.value
        return torch.where(self.running > self.config.target_loss, -self.value, self.value)


def train_masks(
    model: Transformer, means: Mapping[Site, Tensor], pairs: PairBatch, config: PruneConfig, report: Report
) -> NodeMasks:
    """Mask parameters after `config.steps` updates on random batches of `pairs`."""
    noise = (config.init_noise_bias, config.init_noise_scale, config.seed)
    masks = NodeMasks(model.config, config.trials, *noise)
    optimizer = torch.optim.AdamW(
        [masks.tau], lr=config.learning_rate, betas=(0.9, config.beta2), weight_decay=config.weight_decay
    )
    pressure = Pressure(config)
    choice = torch.Generator().manual_seed(config.seed)
    for step in range(config.steps):
        batch = pairs.take(torch.randint(len(pairs), (config.batch_pairs,), generator=choice))
        hard = masks.masks(config.heaviside_temp)
        losses = trial_losses(model, masks.split(hard), means, batch)
        kept = hard.sum(-1)
        (losses + pressure.push * kept).sum().backward()
        clip_rows_(masks.tau, config.gradient_clip)
        optimizer.param_groups[0]["lr"] = rate_at(step, config)
        optimizer.step()
        optimizer.zero_grad()
        masks.clamp_()
        pressure.update(losses.detach())
        report(step + 1, config.steps, f"loss {losses.min().item():.3f}, {int(kept.min())} nodes")
    return masks


def trial_losses(
    model: Transformer, masks: Mapping[Site, Tensor], means: Mapping[Site, Tensor], batch: PairBatch
) -> Tensor:
    """Task loss of every trial [trials], all in one forward pass; `masks[site]` is [trials, width]."""
    trials = len(next(iter(masks.values())))
    device = batch.tokens.device.type
    with torch.autocast(device, torch.bfloat16, enabled=native_bf16(device)):
        logits = last_logits(model, fold(batch, trials), tap=mask_tap(masks, means))
    return margin_losses(margin(logits.unflatten(0, (trials, -1)), batch)).mean(-1)


def rate_at(step: int, config: PruneConfig) -> float:
    """Learning rate of an update."""
    return linear_rate(config.learning_rate, step, config.steps, config.warmup)


@torch.no_grad()
def clip_rows_(parameter: Tensor, largest: float) -> None:
    """Scale each row of a parameter's gradient to at most this norm, so that trials do not touch each other."""
    assert parameter.grad is not None
    norm = parameter.grad.norm(dim=-1, keepdim=True)
    parameter.grad.mul_((largest / norm.clamp(min=1e-12)).clamp(max=1.0))

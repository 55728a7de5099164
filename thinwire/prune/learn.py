"""Trains masks on the task loss plus a pressure on the number of kept units (A.5, step 3), several trials at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from thinwire.circuit import calibrate
from thinwire.display import one_line
from thinwire.engine.operator import differentiable_once
from thinwire.progress import Report, silent
from thinwire.prune.calibrate import fit_calibration
from thinwire.prune.config import Point, PruneConfig
from thinwire.tasks import PairBatch, margin_losses
from thinwire.train.schedule import linear_rate

RUNNING = 0.9
"""Decay of the running mean of the loss that controls the pressure."""
LESS_PRESSURE = 0.1
"""Factor on the pressure of a trial that is trained again because its masks collapsed."""
ABOVE_WHOLE = 1.1
"""The controlled pressure never aims at a loss below that of the whole model times this."""
BOUND_PAIRS = 64
"""Pairs on which the losses with all masks on and all masks off are computed."""


class Masks(Protocol):
    """Units that a circuit keeps or not: what `learn` needs to know about them."""

    n: int
    """Number of masks."""

    def margins(self, hard: Tensor, batch: PairBatch) -> Tensor:
        """Margins of every trial, float32 [trials, 2n pairs], with gradients; `hard` is float32 [trials, n], 0 or 1."""
        ...


@one_line
@dataclass(frozen=True)
class Learned:
    """Trials after their last update."""

    tau: Tensor
    """Mask parameters, float32 [trials, n]."""
    losses: Tensor
    """Running task loss of each trial, nats, float32 [trials]."""
    collapsed: Tensor
    """Trials that lost the task, so that their ranking is meaningless: bool [trials]."""


class Pressure:
    """Loss per kept unit, float32 [trials]: constant, or controlled by the distance to the target loss.

    A constant is fragile: if it is slightly too large, every mask becomes negative and the ranking is meaningless. The
    controlled pressure rises while the running loss is below its setpoint, and falls otherwise.
    """

    def __init__(self, config: PruneConfig, points: Sequence[Point], whole: float) -> None:
        """`whole` is the task loss of the whole model on training pairs, calibrated if the config says so."""
        self.config = config
        self.setpoint = max(config.hold * config.target_loss, ABOVE_WHOLE * whole)
        self.reversal = self.setpoint + (1 - config.hold) * config.target_loss
        self.least = torch.tensor([point.k_coef for point in points], dtype=torch.float32, device="cpu")
        self.value = self.least.clone()
        self.running: Tensor | None = None

    def update(self, losses: Tensor) -> None:
        """Update the pressure from the task losses float32 [trials] of a step."""
        self.running = losses if self.running is None else RUNNING * self.running + (1 - RUNNING) * losses
        if self.config.sparsity == "controlled":
            below = self.running < self.setpoint
            moved = torch.where(below, self.value * self.config.k_coef_up, self.value * self.config.k_coef_down)
            self.value = moved.maximum(self.least)

    @property
    def push(self) -> Tensor:
        """Loss per kept unit in the next step, float32 [trials]; negative, to restore units, if the target is missed.

        Otherwise masks that have all become negative would stay so: no node on a broken path has a gradient of its own.
        """
        if self.running is None or self.config.sparsity == "fixed":
            return self.value
        return torch.where(self.running > self.reversal, -self.value, self.value)


def learn(
    masks: Masks,
    pairs: PairBatch,
    config: PruneConfig,
    points: Sequence[Point],
    seed: int,
    report: Report = silent,
) -> Learned:
    """Train one trial for each of `points`, with `config.steps` updates on random batches of `pairs`.

    Trials whose masks collapsed are trained again under less pressure, at most `config.restarts` times.
    """
    learned = _train(masks, pairs, config, points, seed, report)
    for again in range(1, config.restarts + 1):
        rows = learned.collapsed.nonzero().flatten().tolist()
        if not rows:
            break
        report(0, config.steps, f"{len(rows)} collapsed, again")
        eased = [points[row].replace(k_coef=points[row].k_coef * LESS_PRESSURE**again) for row in rows]
        retried = _train(masks, pairs, config, eased, seed + again, report)
        for name in ("tau", "losses", "collapsed"):
            getattr(learned, name)[rows] = getattr(retried, name)
    return learned


def _train(
    masks: Masks, pairs: PairBatch, config: PruneConfig, points: Sequence[Point], seed: int, report: Report
) -> Learned:
    rows: list[Tensor] = [*initial(points, masks.n, seed)]
    optimizer = torch.optim.AdamW([_group(row, point) for row, point in zip(rows, points, strict=True)])
    with torch.no_grad():
        some = pairs.take(torch.arange(min(len(pairs), BOUND_PAIRS), dtype=torch.int64, device="cpu"))
        every = torch.ones(1, masks.n, dtype=torch.float32, device="cpu")
        whole, nothing = (task_losses(masks.margins(kept, some), config).item() for kept in (every, 0 * every))
    pressure = Pressure(config, points, whole)
    choice = torch.Generator().manual_seed(seed)
    temperatures = torch.tensor([[point.heaviside_temp] for point in points], dtype=torch.float32, device="cpu")
    for step in range(config.steps):
        size = (config.batch_pairs,)
        batch = pairs.take(torch.randint(len(pairs), size, generator=choice, dtype=torch.int64, device="cpu"))
        hard = step_with_slope(torch.stack(rows), temperatures)
        losses = task_losses(masks.margins(hard, batch), config)
        kept = hard.sum(-1)
        (losses + pressure.push * kept).sum().backward()
        for row, group, point in zip(rows, optimizer.param_groups, points, strict=True):
            nn.utils.clip_grad_norm_(row, config.gradient_clip)
            group["lr"] = linear_rate(point.learning_rate, step, config.steps, point.warmup)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for row in rows:
                row.clamp_(-1, 1)
        pressure.update(losses.detach())
        report(step + 1, config.steps, f"loss {losses.min().item():.3f}, {int(kept.min())} kept")
    assert pressure.running is not None
    tau = torch.stack(rows).detach()
    # nearer to the loss of the empty circuit, or of guessing, than to the setpoint
    hopeless = pressure.running > max(pressure.reversal, (pressure.reversal + min(nothing, math.log(2))) / 2)
    extinct = ~(tau > 0).any(-1) & (nothing > pressure.reversal)
    return Learned(tau, pressure.running, hopeless | extinct)


def task_losses(margins: Tensor, config: PruneConfig) -> Tensor:
    """Task loss of each trial, nats, float32 [trials], of margins [trials, 2n pairs] under their best calibration.

    No gradient passes through the calibration: at its optimum, a small change of it does not change the loss. Second
    derivatives are refused, since they would need it.
    """
    if config.calibrated:
        fits = [fit_calibration(row, config.max_logit_scale) for row in margins]
        both = torch.tensor([(fit.scale, fit.shift) for fit in fits], dtype=torch.float32, device="cpu")
        scale, shift = both.T[..., None]
        margins = calibrate(differentiable_once(margins), scale, shift)
    return margin_losses(margins).mean(-1)


def initial(points: Sequence[Point], n: int, seed: int) -> list[nn.Parameter]:
    """Initial mask parameters of each trial, float32 [n] each, normally distributed."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(points), n, generator=generator, dtype=torch.float32, device="cpu")
    return [
        nn.Parameter(point.init_noise_bias + point.init_noise_scale * row)
        for row, point in zip(noise, points, strict=True)
    ]


def _group(row: Tensor, point: Point) -> dict[str, object]:
    return {"params": [row], "lr": 0.0, "betas": (0.9, point.beta2), "weight_decay": point.weight_decay}


def step_with_slope(tau: Tensor, temperature: Tensor | float) -> Tensor:
    """[τ > 0] as 0 and 1, of the shape of `tau`, with the gradient of sigmoid(τ / temperature) (A.5, step 2).

    `temperature` is a number or broadcasts to `tau` [trials, n].
    """
    soft = torch.sigmoid(tau / temperature)
    return (tau > 0).to(soft.dtype) + (soft - soft.detach())

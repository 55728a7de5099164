"""An attack on a circuit: masks of the nodes outside it, one for all prompts, that raise the loss by sign ascent."""

from typing import NamedTuple

import torch
from torch import Tensor

from thinwire.model.taps import ablate_masks
from thinwire.prune.config import PruneConfig
from thinwire.prune.learn import task_losses
from thinwire.prune.masks import fold
from thinwire.sites import Site
from thinwire.tasks import PairBatch, last_logits, margin, norms_on
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import GUESSING

STEP = 0.1
LOST = 0.99 * GUESSING
"""A restart whose refitted loss reaches this has won, and stops: no masks bring it above GUESSING."""


class Found(NamedTuple):
    """Where the restarts of an attack stand after its last step."""

    masks: Tensor
    """How far each node outside stands from its ablated to its own value, 0 to 1: float32 [restarts, n outside]."""
    start: Tensor
    """Where they were at first, the same shape."""
    losses: Tensor
    """Refitted loss before the first step and after each, nats: float32 [steps + 1, restarts]."""

    @property
    def worst(self) -> int:
        """The restart with the largest last loss."""
        return int(self.losses[-1].argmax())

    @property
    def agreement(self) -> float:
        """Mean correlation between the masks of two restarts, over the nodes that moved in all; 0 where none did."""
        moved = (self.masks != self.start).all(0)
        pairs = torch.triu_indices(len(self.masks), len(self.masks), 1, dtype=torch.int64, device="cpu")
        if int(moved.sum()) < 2 or not pairs.numel():
            return 0.0
        between = torch.corrcoef(self.masks[:, moved])[pairs[0], pairs[1]]
        return between.nan_to_num(0).mean().item()  # masks that all ended at one bound do not vary


class Outside:
    """The masks of the nodes outside a circuit, and what the circuit does on a batch under them."""

    def __init__(self, inputs: CheckInput, batch: PairBatch) -> None:
        self.inputs, self.batch = inputs, batch
        self.outside = {site: (~mask).nonzero().flatten() for site, mask in inputs.circuit.keep.items()}
        self.n = sum(len(indices) for indices in self.outside.values())
        """Number of nodes outside."""
        self._config = PruneConfig(max_logit_scale=inputs.config.max_logit_scale)

    def margins(self, masks: Tensor) -> Tensor:
        """Margins [trials, 2n pairs] for masks [trials, n outside], not calibrated; with a gradient."""
        inputs, trials = self.inputs, len(masks)
        norms = norms_on(inputs.model, self.batch, inputs.circuit.frozen_norms, trials)
        tap = ablate_masks(self._by_site(masks), inputs.circuit.means)
        logits = last_logits(inputs.cut, fold(self.batch, trials), tap, norms=norms)
        return margin(logits.unflatten(0, (trials, -1)), self.batch)

    def losses(self, masks: Tensor) -> Tensor:
        """Loss of each trial under its best calibration, nats, float32 [trials], for masks [trials, n outside]."""
        return task_losses(self.margins(masks), self._config)

    def _by_site(self, masks: Tensor) -> dict[Site, Tensor]:
        """The masks [trials, width] of every site: 1 for nodes of the circuit."""
        parts = masks.split([len(indices) for indices in self.outside.values()], dim=1)
        return {
            site: torch.ones(
                len(masks), len(self.inputs.circuit.keep[site]), dtype=torch.float32, device="cpu"
            ).index_copy(1, indices, part)
            for (site, indices), part in zip(self.outside.items(), parts, strict=True)
        }


def attack(outside: Outside, steps: int, restarts: int) -> Found:
    """Ascend from random masks, which the config's seed decides; all restarts run together.

    After each step every mask is at most STEP further, in the direction in which the refitted loss grows.
    """
    generator = torch.Generator().manual_seed(outside.inputs.config.seed)
    start = torch.rand(restarts, outside.n, generator=generator, dtype=torch.float32, device="cpu")
    masks, history = start.clone(), [torch.zeros(restarts, dtype=torch.float32, device="cpu")]
    going = torch.ones(restarts, dtype=torch.bool, device="cpu")
    steps = steps if outside.n else 0  # nothing to move
    for step in range(steps + 1):
        losses = history[-1].clone()
        if going.any():
            here = masks[going].requires_grad_(step < steps)
            now = outside.losses(here)
            losses[going] = now.detach()
            if step < steps:
                (slope,) = torch.autograd.grad(now.sum(), here)
                still = now.detach() < LOST
                masks[going] = (here.detach() + STEP * slope.sign() * still[:, None]).clamp(0, 1)
                going[going.clone()] = still
        history.append(losses)
    return Found(masks, start, torch.stack(history[1:]))

"""From mask parameters to a circuit: rank the nodes and bisect how many meet the target (A.5, step 4)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.circuit import Calibration, count_edges
from thinwire.model.taps import ablate
from thinwire.model.transformer import Transformer
from thinwire.prune.calibrate import fit_calibration
from thinwire.prune.masks import NodeMasks
from thinwire.sites import Site
from thinwire.tasks import PairBatch, last_logits, margin, margin_losses


@dataclass(frozen=True)
class Cut:
    """The first k nodes of a ranking, as a candidate circuit."""

    k: int
    keep: dict[Site, Tensor]
    calibration: Calibration
    loss: float
    """Calibrated task loss on validation pairs."""
    loss_one_fewer: float
    """The same for k - 1 nodes; nan when k is 0."""
    edges: int


@dataclass(frozen=True)
class Judge:
    """What a candidate is measured with: the calibration is fitted on `fit` and the loss taken on `validation`."""

    model: Transformer
    means: Mapping[Site, Tensor]
    fit: PairBatch
    validation: PairBatch

    @torch.no_grad()
    def margins(self, keep: Mapping[Site, Tensor], batch: PairBatch) -> Tensor:
        """Margins [2n] of a batch with only the kept nodes."""
        return margin(last_logits(self.model, batch, tap=ablate(keep, self.means)), batch)

    def loss(self, keep: Mapping[Site, Tensor]) -> tuple[float, Calibration]:
        """Calibrated validation loss of a set of nodes, and its calibration."""
        calibration = fit_calibration(self.margins(keep, self.fit))
        margins = calibration.apply(self.margins(keep, self.validation))
        return margin_losses(margins).mean().item(), calibration


def smallest_cut(masks: NodeMasks, tau: Tensor, judge: Judge, target: float) -> Cut | None:
    """Fewest nodes, in the order of τ [nodes], whose loss meets the target while one fewer misses it.

    None when even all nodes miss it. Equal τ rank by place, so the order is total.
    """
    order = tau.argsort(descending=True, stable=True)
    results: dict[int, tuple[float, Calibration]] = {}

    def keep(k: int) -> dict[Site, Tensor]:
        flat = torch.zeros(len(tau), dtype=torch.bool)
        flat[order[:k]] = True
        return masks.split(flat)

    def loss(k: int) -> float:
        if k not in results:
            results[k] = judge.loss(keep(k))
        return results[k][0]

    low, high = -1, max(1, int((tau > 0).sum()))  # low misses the target, high meets it
    while loss(high) > target:
        if high == len(tau):
            return None
        low, high = high, min(2 * high, len(tau))
    while high - low > 1:
        middle = (low + high) // 2
        if loss(middle) > target:
            low = middle
        else:
            high = middle
    fewer = loss(high - 1) if high else float("nan")
    kept = keep(high)
    return Cut(high, kept, results[high][1], loss(high), fewer, count_edges(judge.model, kept))

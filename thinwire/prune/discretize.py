"""From mask parameters to a circuit: rank the nodes, bisect how many meet the target (A.5, step 4), drop passengers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinwire.circuit import Calibration, count_edges
from thinwire.model.taps import ablate
from thinwire.model.transformer import Transformer
from thinwire.prune.calibrate import fit_calibration
from thinwire.prune.masks import NodeMasks
from thinwire.prune.simplify import simplify
from thinwire.sites import Site
from thinwire.tasks import PairBatch, last_logits, margin, margin_losses


@dataclass(frozen=True)
class Cut:
    """A set of nodes that meets the target, as a candidate circuit."""

    columns: tuple[int, ...]
    """Kept columns of τ."""
    keep: dict[Site, Tensor]
    calibration: Calibration
    loss: float
    """Calibrated task loss on validation pairs."""
    loss_one_fewer: float
    """Least such loss with one node fewer: the last of the ranking or, after simplifying, any; nan without nodes."""
    edges: int


@dataclass
class Judge:
    """What candidates are measured with: the calibration is fitted on `fit` and the loss taken on `validation`."""

    model: Transformer
    means: Mapping[Site, Tensor]
    fit: PairBatch
    validation: PairBatch
    masks: NodeMasks
    max_scale: float
    _seen: dict[frozenset[int], tuple[float, Calibration]] = field(default_factory=dict)

    @torch.no_grad()
    def margins(self, keep: Mapping[Site, Tensor], batch: PairBatch) -> Tensor:
        """Margins [2n] of a batch with only the kept nodes, not calibrated."""
        return margin(last_logits(self.model, batch, tap=ablate(keep, self.means)), batch)

    def keep(self, columns: Sequence[int]) -> dict[Site, Tensor]:
        """The sites' masks, bool [width], of a set of columns of τ."""
        flat = torch.zeros(self.masks.tau.shape[1], dtype=torch.bool)
        flat[torch.tensor(columns, dtype=torch.int64)] = True
        return self.masks.split(flat)

    def measure(self, columns: Sequence[int]) -> tuple[float, Calibration]:
        """Calibrated validation loss of a set of columns, and its calibration; each set is measured once."""
        key = frozenset(columns)
        if key not in self._seen:
            keep = self.keep(columns)
            calibration = fit_calibration(self.margins(keep, self.fit), self.max_scale)
            margins = calibration.apply(self.margins(keep, self.validation))
            self._seen[key] = margin_losses(margins).mean().item(), calibration
        return self._seen[key]

    def cut(self, columns: Sequence[int], loss_one_fewer: float) -> Cut:
        """A set of columns as a candidate circuit."""
        keep = self.keep(columns)
        loss, calibration = self.measure(columns)
        return Cut(tuple(sorted(columns)), keep, calibration, loss, loss_one_fewer, count_edges(self.model, keep))


def smallest_cut(tau: Tensor, judge: Judge, target: float) -> Cut | None:
    """Fewest nodes, in the order of τ [nodes], whose loss meets the target while one fewer misses it.

    None when even all nodes miss it. Equal τ rank by place, so the order is total.
    """
    order = tau.argsort(descending=True, stable=True).tolist()

    def loss(k: int) -> float:
        return judge.measure(order[:k])[0]

    low, high = -1, max(1, int((tau > 0).sum()))  # low misses the target, high meets it
    while loss(high) > target:
        if high == len(order):
            return None
        low, high = high, min(2 * high, len(order))
    while high - low > 1:
        middle = (low + high) // 2
        if loss(middle) > target:
            low = middle
        else:
            high = middle
    return judge.cut(order[:high], loss(high - 1) if high else float("nan"))


def simplified_cut(cut: Cut, tau: Tensor, judge: Judge, target: float) -> Cut:
    """The cut without the nodes it does not need: no single node of the result can be dropped."""
    weakest_first = sorted(cut.columns, key=lambda column: (tau[column].item(), -column))
    kept = simplify(weakest_first, lambda columns: judge.measure(columns)[0] <= target)
    fewer = [judge.measure([other for other in kept if other != column])[0] for column in kept]
    return judge.cut(kept, min(fewer, default=float("nan")))

"""From mask parameters to a circuit: rank the units, bisect how many meet the target (A.5, step 4).

A unit is what has a mask of its own: a node, a few nodes that share one mask, or a wire. The bisection is over units;
whatever they are, a candidate circuit is a set of nodes and wires.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinwire.circuit import Calibration, Wire, count_edges, keep_masks
from thinwire.model.transformer import Transformer
from thinwire.prune.calibrate import fit_calibration
from thinwire.prune.passes import Parts, Passes, Replaceable
from thinwire.sites import Node, Site
from thinwire.tasks import PairBatch, margin_losses

SCREEN_PAIRS = 32
"""Validation pairs, evenly spread, on which hopeless candidates are turned away."""
SCREEN_ERRORS = 3.0
"""Hopeless is a loss above the target by so many standard errors, under the calibration that is best for it."""


@dataclass(frozen=True)
class Cut:
    """A set of nodes and wires that meets the target, as a candidate circuit."""

    columns: tuple[int, ...]
    """Kept columns of τ, in the order they were given: strongest first."""
    nodes: tuple[Node, ...]
    """In the order of the forward pass."""
    wires: tuple[Wire, ...] | None
    """Kept wires; None where every nonzero weight between the nodes is kept."""
    calibration: Calibration
    loss: float
    """Calibrated task loss on validation pairs."""
    loss_one_fewer: float
    """Least such loss with one unit fewer: the last of the ranking or, after simplifying, any node or wire; nan where
    there is none."""
    edges: int

    @property
    def parts(self) -> Parts:
        """The nodes and wires as sets."""
        return Parts(frozenset(self.nodes), None if self.wires is None else frozenset(self.wires))


@dataclass
class Judge:
    """What candidates are measured with: the loss on validation pairs, under the calibration that is best for them.

    The two numbers of a calibration are fitted where the loss is taken: of prompts that a model has trained on it is
    surer than of others.
    """

    model: Transformer
    means: Mapping[Site, Tensor]
    """What removed nodes and wires are held at, [width] per site."""
    validation: PairBatch
    units: Sequence[tuple[Node, ...]]
    """What each column of τ keeps: nodes or, where `wired`, the source and target of a wire."""
    forced: Sequence[Node]
    """Nodes that every candidate has."""
    max_scale: float
    wired: bool = False
    loose: Sequence[Node] = ()
    """Nodes that the bisection keeps although no unit has them; simplifying may drop them."""
    _seen: dict[Parts, tuple[float, Calibration]] = field(default_factory=dict)
    _least: dict[Parts, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._model = Replaceable(self.model)
        n_pairs = len(self.validation)
        spread = torch.linspace(0, n_pairs - 1, min(SCREEN_PAIRS, n_pairs)).round().long()
        self._validation, self._screen = (
            Passes(self._model, self.means, batch) for batch in (self.validation, self.validation.take(spread))
        )

    def parts(self, columns: Sequence[int]) -> Parts:
        """The nodes and wires of a set of columns of τ."""
        units = [self.units[column] for column in columns]
        nodes = frozenset(node for unit in units for node in unit).union(self.forced, self.loose)
        if not self.wired:
            return Parts(nodes)
        return Parts(nodes, frozenset((source, target) for source, target in units))

    def margins(self, cut: Cut, batch: PairBatch) -> Tensor:
        """Margins [2n] of any batch with only the circuit, not calibrated."""
        return Passes(self._model, self.means, batch).margins(cut.parts)

    def measure(self, columns: Sequence[int]) -> tuple[float, Calibration]:
        """Calibrated validation loss of a set of columns, and its calibration."""
        return self.measure_parts(self.parts(columns))

    def measure_parts(self, parts: Parts) -> tuple[float, Calibration]:
        """The same of nodes and wires; each candidate is measured once."""
        if parts not in self._seen:
            margins = self._validation.margins(parts)
            calibration = fit_calibration(margins, self.max_scale)
            self._seen[parts] = margin_losses(calibration.apply(margins)).mean().item(), calibration
        return self._seen[parts]

    def meets(self, parts: Parts, target: float) -> bool:
        """Whether a candidate meets the target; measured in full unless a few pairs show that it is hopeless."""
        if parts not in self._seen and self.least_loss(parts) > target:
            return False
        return self.measure_parts(parts)[0] <= target

    def least_loss(self, parts: Parts) -> float:
        """A bound on the loss from a few pairs, under the calibration that is best for just these."""
        if parts not in self._least:
            margins = self._screen.margins(parts)
            losses = margin_losses(fit_calibration(margins, self.max_scale).apply(margins))
            error = losses.std(correction=0).item() / len(losses) ** 0.5
            self._least[parts] = losses.mean().item() - SCREEN_ERRORS * error
        return self._least[parts]

    def start_from(self, parts: Parts) -> None:
        """Make a candidate the one that later candidates are small changes of."""
        for passes in (self._validation, self._screen):
            passes.start_from(parts)

    def cut(self, columns: Sequence[int], loss_one_fewer: float) -> Cut:
        """A set of columns, strongest first, as a candidate circuit."""
        return self.cut_parts(self.parts(columns), columns, loss_one_fewer)

    def cut_parts(self, parts: Parts, columns: Sequence[int], loss_one_fewer: float) -> Cut:
        """Nodes and wires as a candidate circuit; of the columns those that it still has are kept."""
        loss, calibration = self.measure_parts(parts)
        edges = count_edges(self.model, keep_masks(parts.nodes, self.model.config))
        return Cut(
            columns=tuple(column for column in columns if self._has(parts, self.units[column])),
            nodes=tuple(sorted(parts.nodes)),
            wires=None if parts.wires is None else tuple(sorted(parts.wires)),
            calibration=calibration,
            loss=loss,
            loss_one_fewer=loss_one_fewer,
            edges=edges if parts.wires is None else len(parts.wires),
        )

    def _has(self, parts: Parts, unit: tuple[Node, ...]) -> bool:
        if self.wired:
            return parts.wires is None or unit in parts.wires
        return not parts.nodes.isdisjoint(unit)


def smallest_cut(tau: Tensor, judge: Judge, target: float) -> Cut | None:
    """Fewest units, in the order of τ [units], whose loss meets the target while one fewer misses it.

    None when even all units miss it. Equal τ rank by place, so the order is total.
    """
    order = tau.argsort(descending=True, stable=True).tolist()

    def loss(k: int) -> float:
        return judge.measure(order[:k])[0]

    low, high = -1, min(len(order), max(1, int((tau > 0).sum())))  # low misses the target, high meets it
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

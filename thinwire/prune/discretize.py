"""From mask parameters to a circuit: rank the units, bisect how many meet the target (A.5, step 4).

A unit is what has a mask of its own: a node, a few nodes that share one mask, or a wire; tokens may have masks besides.
The bisection is over both; whatever they are, a candidate circuit is a set of nodes and wires, and of removed tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinwire.circuit import Calibration, Wire, count_edges, keep_masks
from thinwire.model.transformer import Transformer
from thinwire.prune.calibrate import fit_calibration
from thinwire.prune.passes import Parts, Passes, Replaceable, Token
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
    removed_tokens: tuple[int, ...] = ()
    """Ids of tokens whose embedding is not kept, sorted."""

    @property
    def parts(self) -> Parts:
        """The same as sets."""
        wires = None if self.wires is None else frozenset(self.wires)
        return Parts(frozenset(self.nodes), wires, frozenset(map(Token, self.removed_tokens)))


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
    frozen_norms: bool = False
    """Whether candidates run with the scales of RMSNorm that the whole model has on the same prompts."""
    tokens: Sequence[Token] = ()
    """What the columns after those of the units keep."""
    held_embedding: Tensor | None = None
    """What embeddings of removed tokens are held at [d_model]; None where no column is a token's."""
    _seen: dict[Parts, tuple[float, Calibration]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._model = Replaceable(self.model)
        n_pairs = len(self.validation)
        spread = torch.linspace(0, n_pairs - 1, min(SCREEN_PAIRS, n_pairs)).round().long()
        self._validation, self._screen = map(self._passes, (self.validation, self.validation.take(spread)))

    def _passes(self, batch: PairBatch) -> Passes:
        return Passes(self._model, self.means, batch, self.frozen_norms, self.held_embedding)

    def parts(self, columns: Sequence[int]) -> Parts:
        """What a set of columns of τ keeps."""
        n_units = len(self.units)
        units = [self.units[column] for column in columns if column < n_units]
        nodes = frozenset(node for unit in units for node in unit).union(self.forced, self.loose)
        wires = frozenset((source, target) for source, target in units) if self.wired else None
        kept = [self.tokens[column - n_units] for column in columns if column >= n_units]
        return Parts(nodes, wires, frozenset(self.tokens).difference(kept))

    def items(self, column: int) -> list[Node | Wire | Token]:
        """What a column of τ keeps, as things that can be taken out of parts."""
        if column >= len(self.units):
            return [self.tokens[column - len(self.units)]]
        unit = self.units[column]
        return [(unit[0], unit[1])] if self.wired else [*unit]

    def margins(self, cut: Cut, batch: PairBatch) -> Tensor:
        """Margins [2n] of any batch with only the circuit, not calibrated."""
        return self._passes(batch).margins(cut.parts)

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
        losses = self._screened(parts)
        return losses.mean().item() - SCREEN_ERRORS * losses.std(correction=0).item() / len(losses) ** 0.5

    def quick_loss(self, parts: Parts) -> float:
        """An estimate of the loss from the same few pairs."""
        return self._screened(parts).mean().item()

    def _screened(self, parts: Parts) -> Tensor:
        margins = self._screen.margins(parts)
        return margin_losses(fit_calibration(margins, self.max_scale).apply(margins))

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
            columns=tuple(column for column in columns if self._has(parts, column)),
            nodes=tuple(sorted(parts.nodes)),
            wires=None if parts.wires is None else tuple(sorted(parts.wires)),
            calibration=calibration,
            loss=loss,
            loss_one_fewer=loss_one_fewer,
            edges=edges if parts.wires is None else len(parts.wires),
            removed_tokens=tuple(sorted(token.id for token in parts.removed)),
        )

    def _has(self, parts: Parts, column: int) -> bool:
        if column >= len(self.units):
            return parts.has(self.tokens[column - len(self.units)])
        if self.wired:
            return parts.wires is None or self.units[column] in parts.wires
        return not parts.nodes.isdisjoint(self.units[column])


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

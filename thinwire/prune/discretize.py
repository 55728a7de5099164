"""From mask parameters to a circuit: rank the units and bisect for the fewest that meet the target (A.5, step 4).

A unit is what one mask keeps: a node, several nodes that share the mask, or an edge. Tokens can have masks too; they
are ranked together with the units. A candidate circuit is a set of nodes and edges, and a set of removed tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from thinwire.circuit import Calibration, EdgeEnds, count_edges, keep_masks
from thinwire.model.transformer import Transformer
from thinwire.prune.calibrate import fit_calibration
from thinwire.prune.passes import Parts, Passes, Replaceable, Token
from thinwire.sites import Node, Site
from thinwire.tasks import PairBatch, loss_of, margin_losses

SCREEN_PAIRS = 32
"""Number of validation pairs, evenly spread, on which poor candidates are rejected early."""
SCREEN_ERRORS = 3.0
"""A candidate is rejected early if its loss on those pairs is above the target by this many standard errors."""


@dataclass(frozen=True)
class Candidate:
    """A candidate circuit with its loss."""

    columns: tuple[int, ...]
    """Kept columns of τ, in the given order: strongest first."""
    nodes: tuple[Node, ...]
    """In the order of the forward pass."""
    kept_edges: tuple[EdgeEnds, ...] | None
    """None where every nonzero weight between the nodes is kept."""
    calibration: Calibration
    loss: float
    """Task loss on validation pairs, calibrated unless the evaluator is not."""
    loss_one_fewer: float
    """Least such loss with one unit fewer: without the last of the ranking or, after simplification, without any one
    node or edge; NaN if nothing can be removed."""
    edges: int
    removed_tokens: tuple[int, ...] = ()
    """Ids of tokens whose embedding is removed, sorted."""

    @property
    def parts(self) -> Parts:
        """The same as sets."""
        kept_edges = None if self.kept_edges is None else frozenset(self.kept_edges)
        return Parts(frozenset(self.nodes), kept_edges, frozenset(map(Token, self.removed_tokens)))


class Measured(NamedTuple):
    """A candidate on validation pairs."""

    loss: float
    """Task loss under that calibration, nats."""
    calibration: Calibration


@dataclass
class Evaluator:
    """Computes the loss of candidates on validation pairs, under the best calibration of each unless told otherwise.

    The calibration is fitted on the same pairs: on training prompts, the model would be more confident.
    """

    model: Transformer
    means: Mapping[Site, Tensor]
    """Values that removed nodes are ablated to, float32 [width] per site; edges are ablated accordingly."""
    validation: PairBatch
    units: Sequence[tuple[Node, ...]]
    """What each column of τ keeps: nodes or, with `edge_units`, the source and target of an edge."""
    forced: Sequence[Node]
    """Nodes that every candidate keeps."""
    max_scale: float
    calibrated: bool = True
    """Whether losses are those under the best calibration of each candidate, and not those of its own log-odds."""
    edge_units: bool = False
    loose: Sequence[Node] = ()
    """Nodes that belong to no unit; the bisection keeps them, simplification may remove them."""
    frozen_norms: bool = False
    """Whether candidates run with the RMSNorm scales of the whole model on the same prompts."""
    tokens: Sequence[Token] = ()
    """Tokens that the columns after those of the units keep."""
    ablated_embedding: Tensor | None = None
    """Value that embeddings of removed tokens are ablated to, float32 [d_model]; None if no token has a mask."""
    _seen: dict[Parts, Measured] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._model = Replaceable(self.model)
        n_pairs = len(self.validation)
        n_screened = min(SCREEN_PAIRS, n_pairs)
        spread = torch.linspace(0, n_pairs - 1, n_screened, dtype=torch.float32, device="cpu").round().long()
        self._validation, self._screen = map(self._passes, (self.validation, self.validation.take(spread)))

    def _passes(self, batch: PairBatch) -> Passes:
        return Passes(self._model, self.means, batch, self.frozen_norms, self.ablated_embedding)

    def parts(self, columns: Sequence[int]) -> Parts:
        """What a set of columns of τ keeps."""
        n_units = len(self.units)
        units = [self.units[column] for column in columns if column < n_units]
        nodes = frozenset(node for unit in units for node in unit).union(self.forced, self.loose)
        kept_edges = frozenset(EdgeEnds(*unit) for unit in units) if self.edge_units else None
        kept = [self.tokens[column - n_units] for column in columns if column >= n_units]
        return Parts(nodes, kept_edges, frozenset(self.tokens).difference(kept))

    def items(self, column: int) -> list[Node | EdgeEnds | Token]:
        """The nodes, edge or token that a column of τ keeps."""
        if column >= len(self.units):
            return [self.tokens[column - len(self.units)]]
        unit = self.units[column]
        return [EdgeEnds(*unit)] if self.edge_units else [*unit]

    def margins(self, candidate: Candidate, batch: PairBatch) -> Tensor:
        """Margins float32 [2n] of any batch with only the candidate, not calibrated."""
        return self._passes(batch).margins(candidate.parts)

    def calibration(self, margins: Tensor) -> Calibration:
        """The best calibration of margins float32 [2n]; the one that changes nothing where none is wanted."""
        return fit_calibration(margins, self.max_scale) if self.calibrated else Calibration()

    def measure(self, columns: Sequence[int]) -> Measured:
        """Loss of the candidate that a set of columns of τ keeps."""
        return self.measure_parts(self.parts(columns))

    def measure_parts(self, parts: Parts) -> Measured:
        """Loss of a candidate; each is computed once."""
        if parts not in self._seen:
            margins = self._validation.margins(parts)
            calibration = self.calibration(margins)
            loss = loss_of(calibration.apply(margins)).item()
            self._seen[parts] = Measured(loss, calibration)
        return self._seen[parts]

    def meets(self, parts: Parts, target: float) -> bool:
        """Whether a candidate meets the target; all pairs run unless a few already show that it misses by far."""
        if parts not in self._seen and self.least_loss(parts) > target:
            return False
        return self.measure_parts(parts).loss <= target

    def least_loss(self, parts: Parts) -> float:
        """A lower bound on the loss, estimated from a few pairs under their own best calibration."""
        losses = self._screened(parts)
        return losses.mean().item() - SCREEN_ERRORS * losses.std(correction=0).item() / len(losses) ** 0.5

    def quick_loss(self, parts: Parts) -> float:
        """The loss, estimated from the same few pairs."""
        return self._screened(parts).mean().item()

    def _screened(self, parts: Parts) -> Tensor:
        margins = self._screen.margins(parts)
        return margin_losses(self.calibration(margins).apply(margins))

    def start_from(self, parts: Parts) -> None:
        """Set the candidate from which later ones differ little; their forward passes start from its activations."""
        for passes in (self._validation, self._screen):
            passes.start_from(parts)

    def candidate(self, columns: Sequence[int], loss_one_fewer: float) -> Candidate:
        """The candidate that a set of columns of τ keeps, strongest first."""
        return self.candidate_of(self.parts(columns), columns, loss_one_fewer)

    def candidate_of(self, parts: Parts, columns: Sequence[int], loss_one_fewer: float) -> Candidate:
        """A candidate of these nodes and edges; of `columns`, those that it still keeps are recorded."""
        measured = self.measure_parts(parts)
        edges = count_edges(self.model, keep_masks(parts.nodes, self.model.config))
        return Candidate(
            columns=tuple(column for column in columns if self._has(parts, column)),
            nodes=tuple(sorted(parts.nodes)),
            kept_edges=None if parts.kept_edges is None else tuple(sorted(parts.kept_edges)),
            calibration=measured.calibration,
            loss=measured.loss,
            loss_one_fewer=loss_one_fewer,
            edges=edges if parts.kept_edges is None else len(parts.kept_edges),
            removed_tokens=tuple(sorted(token.id for token in parts.removed)),
        )

    def _has(self, parts: Parts, column: int) -> bool:
        if column >= len(self.units):
            return parts.has(self.tokens[column - len(self.units)])
        if self.edge_units:
            return parts.kept_edges is None or self.units[column] in parts.kept_edges
        return not parts.nodes.isdisjoint(self.units[column])


def smallest_candidate(tau: Tensor, evaluator: Evaluator, target: float) -> Candidate | None:
    """The fewest units, ranked by τ float32 [units], that meet the target while one fewer misses it.

    None if all units together miss it. Units of equal τ are ranked by index.
    """
    order = tau.argsort(descending=True, stable=True).tolist()

    def loss(k: int) -> float:
        return evaluator.measure(order[:k]).loss

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
    return evaluator.candidate(order[:high], loss(high - 1) if high else float("nan"))

"""Circuits of one ranking for a ladder of target losses (the curves of Gao et al. 2025, Fig. 2).

The circuits are nested, so that one ranking gives them all, and candidates measured for one target serve the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from thinwire.circuit import Circuit
from thinwire.errors import UserError
from thinwire.prune.discretize import Cut, Judge, smallest_cut


@dataclass(frozen=True)
class Rung:
    """The smallest circuit of a ranking that meets one target; None where not even all of it does."""

    target: float
    """Loss that validation pairs must meet, nats."""
    nodes: int | None
    edges: int | None
    loss: float | None
    """Calibrated task loss on validation pairs."""


def ladder(tau: Tensor, judge: Judge, targets: Sequence[float]) -> list[Rung]:
    """A rung for each target, strictest first, of the ranking by τ [units].

    Sizes never rise with the target, even where the loss does not fall with every unit: two bisections go the same way
    up to the first candidate that meets only the looser target, and part there.
    """
    rungs = [_rung(target, smallest_cut(tau, judge, target)) for target in sorted(set(targets))]
    assert all(b.edges is not None and b.edges <= a.edges for a, b in pairwise(rungs) if a.edges is not None)
    return rungs


def _rung(target: float, cut: Cut | None) -> Rung:
    return Rung(target, None, None, None) if cut is None else Rung(target, len(cut.nodes), cut.edges, cut.loss)


def ladder_of(circuit: Circuit, judge: Judge, targets: Sequence[float]) -> list[Rung]:
    """The ladder of the ranking that a circuit of nodes was cut from, as far as the circuit keeps it.

    Targets stricter than the circuit's own are missed unless it happens to meet them.
    Raises UserError for a circuit that was simplified or has masks on its weights: it is no prefix of a ranking.
    """
    if circuit.wires is not None:
        raise UserError(f"The {circuit.task} circuit lists its wires and has no ranking; prune without --simplify.")
    ranked = [node for node in circuit.nodes if node in circuit.strengths]
    forced = [node for node in circuit.nodes if node not in circuit.strengths]
    own = replace(judge, units=[(node,) for node in ranked], forced=forced, wired=False, loose=())
    return ladder(torch.tensor([circuit.strengths[node] for node in ranked]), own, targets)

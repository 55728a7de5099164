"""Sizes of circuits of one ranking for several target losses, a ladder (the curves of Gao et al. 2025, Fig. 2).

The circuits are nested: all come from one ranking, and losses computed for one target are reused for the others.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from thinwire.circuit import Rung
from thinwire.prune.discretize import Candidate, Evaluator, smallest_candidate


def ladder(tau: Tensor, evaluator: Evaluator, targets: Sequence[float]) -> list[Rung]:
    """A rung for each target, strictest first, of the ranking by τ [units].

    A larger target never gives a larger circuit, even if the loss does not fall with every unit: two bisections take
    the same steps until a candidate meets only the larger target.
    """
    rungs = [_rung(target, smallest_candidate(tau, evaluator, target)) for target in sorted(set(targets))]
    assert all(b.edges is not None and b.edges <= a.edges for a, b in pairwise(rungs) if a.edges is not None)
    return rungs


def _rung(target: float, candidate: Candidate | None) -> Rung:
    if candidate is None:
        return Rung(target, None, None, None)
    return Rung(target, len(candidate.nodes), candidate.edges, candidate.loss)


def ladder_of(columns: Sequence[int], evaluator: Evaluator, targets: Sequence[float]) -> tuple[Rung, ...]:
    """The ladder of the ranking within one circuit, given by its columns of τ, strongest first.

    Targets below the circuit's own are usually missed.
    """
    own = replace(evaluator, units=[evaluator.units[column] for column in columns])
    return tuple(ladder(torch.linspace(1, 0, len(columns) + 1, dtype=torch.float32, device="cpu")[:-1], own, targets))

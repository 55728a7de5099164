"""Circuits of one ranking for a ladder of target losses (the curves of Gao et al. 2025, Fig. 2).

The circuits are nested, so that one ranking gives them all, and candidates measured for one target serve the others.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from thinwire.circuit import Rung
from thinwire.prune.discretize import Cut, Judge, smallest_cut


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


def ladder_of(columns: Sequence[int], judge: Judge, targets: Sequence[float]) -> tuple[Rung, ...]:
    """The ladder of a ranking as far as a circuit of it goes: its columns of τ, strongest first.

    Targets stricter than the circuit's own are missed unless it happens to meet them.
    """
    own = replace(judge, units=[judge.units[column] for column in columns])
    return tuple(ladder(torch.linspace(1, 0, len(columns) + 1)[:-1], own, targets))

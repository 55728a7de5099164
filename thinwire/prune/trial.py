"""The result of one trial of mask training, and comparisons between trials."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field, with_config

from thinwire.prune.config import Point

Count = Annotated[int, Field(ge=0, lt=2**53)]
Amount = Annotated[float, Field(ge=0)]


@with_config(ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
@dataclass(frozen=True)
class Trial:
    """The circuit that one set of hyper-parameters gave; sizes and loss are None if the target was missed."""

    point: Point
    """The requested hyper-parameters; masks that collapsed were trained again under less pressure."""
    columns: tuple[Count, ...]
    """Kept columns of τ, strongest first; () if the target was missed."""
    strengths: tuple[float, ...]
    """τ of each kept column."""
    edges: Count | None
    nodes: Count | None
    loss: Amount | None
    """Calibrated task loss on validation pairs, nats."""
    seconds: Amount

    def __post_init__(self) -> None:
        """Raise ValueError when the fields contradict each other."""
        unknown = [self.edges is None, self.nodes is None, self.loss is None]
        if len(set(unknown)) > 1:
            raise ValueError("edges, nodes and loss are all given or all null")
        if len(self.columns) != len(self.strengths) or (self.missed and self.columns):
            raise ValueError("there is one strength for each column, and none where the target was missed")

    @property
    def missed(self) -> bool:
        """Whether no circuit of this trial meets the target."""
        return self.edges is None

    @property
    def size(self) -> tuple[float, float]:
        """(edges, nodes), by which trials are compared; infinite if the target was missed."""
        if self.edges is None or self.nodes is None:
            return math.inf, math.inf
        return self.edges, self.nodes


def best(trials: Sequence[Trial]) -> Trial | None:
    """The first trial with the fewest edges, then nodes; None when all missed the target."""
    found = [trial for trial in trials if not trial.missed]
    return min(found, key=lambda trial: trial.size, default=None)


def pareto(trials: Sequence[Trial]) -> list[Trial]:
    """The Pareto front of trials in loss, nodes, edges and seconds, smallest circuit first.

    A trial is on it if no other is at least as good in all four and better in one. Trials that missed the target are
    left out.
    """
    found = sorted((trial for trial in trials if not trial.missed), key=lambda trial: (trial.size, trial.loss))
    return [trial for trial in found if not any(_beats(other, trial) for other in found)]


def _beats(one: Trial, other: Trial) -> bool:
    ours, theirs = _costs(one), _costs(other)
    return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))


def _costs(trial: Trial) -> tuple[float, ...]:
    assert trial.loss is not None
    return trial.loss, *trial.size, trial.seconds

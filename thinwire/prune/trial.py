"""One trial of a search and what came of it; which trials are worth a look."""

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
    """The circuit that one point came to, or None for its sizes where the target was missed."""

    point: Point
    """What was asked for; masks that collapsed were trained again under less pressure."""
    columns: tuple[Count, ...]
    """What is kept, as columns of τ, strongest first; () where the target was missed."""
    strengths: tuple[float, ...]
    """τ of each of them."""
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
        """(edges, nodes), by which trials compare; infinite where the target was missed."""
        if self.edges is None or self.nodes is None:
            return math.inf, math.inf
        return self.edges, self.nodes


def best(trials: Sequence[Trial]) -> Trial | None:
    """The first trial with the fewest edges, then nodes; None when all missed the target."""
    found = [trial for trial in trials if not trial.missed]
    return min(found, key=lambda trial: trial.size, default=None)


def pareto(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that no other beats in loss, nodes, edges and seconds at once, smallest first.

    A trial is beaten by one that is nowhere worse and somewhere better; those that missed the target are left out.
    """
    found = sorted((trial for trial in trials if not trial.missed), key=lambda trial: (trial.size, trial.loss))
    return [trial for trial in found if not any(_beats(other, trial) for other in found)]


def _beats(one: Trial, other: Trial) -> bool:
    ours, theirs = _costs(one), _costs(other)
    return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))


def _costs(trial: Trial) -> tuple[float, ...]:
    assert trial.loss is not None
    return trial.loss, *trial.size, trial.seconds

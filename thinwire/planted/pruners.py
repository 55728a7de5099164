"""Runs pruners on planted models: what each finds, how it ranks the edges, and how long it takes."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from thinwire.circuit import EdgeEnds
from thinwire.display import one_line
from thinwire.model.precision import own_modes
from thinwire.planted.model import Planted
from thinwire.planted.scores import CHANCE, Recovery, edge_auroc, edge_scores, recovery, truth_of
from thinwire.progress import silent
from thinwire.prune.config import Point, PruneConfig
from thinwire.prune.reach import TargetMissed
from thinwire.prune.run import PruningRun
from thinwire.prune.trial import Trial
from thinwire.sites import Node

CONFIG = PruneConfig(train_pairs=512, validation_pairs=128, heldout_pairs=128)
"""Default pruning, with fewer pairs: those of a planted task hardly differ."""


@one_line
@dataclass(frozen=True)
class Found:
    """What a pruner made of a planted model."""

    edges: frozenset[EdgeEnds] | None
    """The circuit's edges; None where the pruner found none that meets its target."""
    scores: Mapping[Node, float] | Mapping[EdgeEnds, float]
    """How it ranks nodes or edges, largest first; empty where it has no ranking."""
    seconds: float
    reason: str = ""
    """Why there is no circuit."""


Pruner = Callable[[Planted], Found]


@dataclass(frozen=True)
class _Recorded(PruningRun):
    """A pruning run that keeps the ranking of every trial."""

    rankings: list[tuple[Trial, Tensor]] = field(default_factory=list)

    def evaluated(self, point: Point, tau: Tensor, seconds: float) -> Trial:
        """See `PruningRun`; `tau` is float32 [masks]."""
        trial = super().evaluated(point, tau, seconds)
        self.rankings.append((trial, tau.detach().clone()))
        return trial

    def ranking(self) -> dict[Node, float]:
        """The scores of all nodes in the trial with the smallest circuit; empty if all trials collapsed."""
        if not self.rankings:
            return {}
        _, tau = min(self.rankings, key=lambda one: one[0].size)
        return {node: score for unit, score in zip(self.masks.units, tau.tolist(), strict=True) for node in unit}


@own_modes()
def run_pruner(planted: Planted, config: PruneConfig = CONFIG) -> Found:
    """What `thinwire.prune` finds with a config; a target that is missed is a result, not an error."""
    began, run = time.perf_counter(), None
    try:
        run = _Recorded.of(planted.model, planted.task, None, planted.means, config)  # pyright: ignore
        circuit = run.smallest(began, silent)
    except TargetMissed as missed:
        ranking = run.ranking() if isinstance(run, _Recorded) else {}
        return Found(None, ranking, time.perf_counter() - began, str(missed))
    assert isinstance(run, _Recorded)
    edges = frozenset(edge.ends for edge in circuit.edges(planted.model))
    return Found(edges, run.ranking(), time.perf_counter() - began)


def _by(**changes: object) -> Pruner:
    def pruner(planted: Planted) -> Found:
        return run_pruner(planted, CONFIG.replace(**changes))

    return pruner


PRUNERS: dict[str, Pruner | None] = {
    "learned": _by(),
    "learned_uncalibrated": _by(calibrated=False, cut="uncalibrated"),
    "robust": None,
    "attribution": _by(method="attribution"),
    "integrated_gradients": _by(method="integrated_gradients"),
}
"""Pruners by name; None where there is not yet one of that name."""


@dataclass(frozen=True)
class Score:
    """One pruner on one planted model."""

    recovery: Recovery
    auroc: float | None
    """Of the ranking of edges, one half where there is no ranking; None where the model does not do the task."""
    false: bool
    """Whether it found the false circuit, exactly."""
    refused: bool
    """Whether it found no circuit."""
    seconds: float
    reason: str


def score(planted: Planted, found: Found) -> Score:
    """A pruner's result against the truth; a pruner without a circuit has found the empty one."""
    truth, auroc = truth_of(planted), None
    edges = frozenset[EdgeEnds]() if found.edges is None else found.edges
    if planted.solvable:
        of_edges = _of_edges(planted, found.scores)
        auroc = edge_auroc(of_edges, planted.truth) if of_edges else CHANCE
    return Score(
        recovery=recovery(edges, truth),
        auroc=auroc,
        false=planted.false is not None and edges == planted.false.edges,
        refused=found.edges is None,
        seconds=found.seconds,
        reason=found.reason,
    )


def _of_edges(planted: Planted, scores: Mapping[Node, float] | Mapping[EdgeEnds, float]) -> dict[EdgeEnds, float]:
    """Scores of every edge; those of nodes become those of edges, and edges without a score are below all others."""
    nodes = {node: value for node, value in scores.items() if isinstance(node, Node)}
    if nodes:
        return edge_scores(planted.every_edge, nodes)
    edges = {edge: value for edge, value in scores.items() if isinstance(edge, EdgeEnds)}
    least = min(edges.values(), default=0.0) - 1.0
    return {edge: edges.get(edge, least) for edge in planted.every_edge} if edges else {}

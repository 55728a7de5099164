"""A planted model: its weights, its task, the circuits that are true, and one that only looks so."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from thinwire.circuit import Circuit, EdgeEnds, PruneScores, weight_edges
from thinwire.display import one_line
from thinwire.model import Transformer
from thinwire.model.taps import record
from thinwire.planted.task import FIRST_TOKEN, PlantedTask
from thinwire.prune.calibrate import fit_calibration
from thinwire.sites import Node, Site, all_sites
from thinwire.tasks import Task, accuracy_of, last_logits, loss_of, margin
from thinwire.verify.config import VerifyConfig
from thinwire.verify.inputs import CheckInput

TARGET_LOSS = 0.15
"""Task loss in nats that a planted circuit has to reach, as pruning's default."""
MEAN_ROWS = 512
"""Sequences over which the means of nodes are computed."""
CHECK_ROWS = 64
"""Other sequences, whose values the checks give to nodes outside a circuit."""


@one_line
@dataclass(frozen=True)
class Wiring:
    """The edges of a circuit; its nodes are their ends."""

    edges: frozenset[EdgeEnds]

    @classmethod
    def of(cls, edges: Iterable[EdgeEnds]) -> "Wiring":
        """The circuit with these edges."""
        return cls(frozenset(edges))

    @property
    def nodes(self) -> tuple[Node, ...]:
        """In the order of the forward pass."""
        return tuple(sorted({node for edge in self.edges for node in edge}))


@one_line
@dataclass(frozen=True)
class Planted:
    """A model with hand-set weights, its task, and what is known about its circuits."""

    name: str
    family: str
    model: Transformer
    planted: PlantedTask
    means: dict[Site, Tensor]
    """Means of nodes over sequences of random tokens, float32 [width] per site."""
    truth: tuple[Wiring, ...]
    """The circuits that are true; a pruner may find any one of them. Empty where nothing in the model does the task."""
    false: Wiring | None = None
    """A circuit that is enough under mean ablation, but misses a part of what the model does."""
    caught_by: str = ""
    """Name of the check that is meant to notice the false circuit."""
    pretraining: Tensor | None = None
    """Sequences of random tokens other than those of the means, int64 [rows, pos]."""

    @property
    def task(self) -> Task:
        """The task, for functions that take one; they use no more of it than its pairs and its name."""
        return cast(Task, self.planted)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes of the first true circuit, in the order of the forward pass."""
        return self.truth[0].nodes

    @property
    def edges(self) -> frozenset[EdgeEnds]:
        """The edges of the first true circuit."""
        return self.truth[0].edges

    @property
    def solvable(self) -> bool:
        """Whether the model does the task."""
        return bool(self.truth)

    @property
    def every_node(self) -> tuple[Node, ...]:
        """All nodes of the model, in the order of the forward pass."""
        shape = self.model.config
        return tuple(Node(site, index) for site in all_sites(shape) for index in range(site.width(shape)))

    @cached_property
    def every_edge(self) -> tuple[EdgeEnds, ...]:
        """All nonzero weights of the model's layers, in the order of the forward pass."""
        return tuple(edge.ends for edge in weight_edges(self.model, self.every_node))

    def circuit(self, wiring: Wiring, config: VerifyConfig | None = None) -> Circuit:
        """A circuit of these edges, with the calibration that suits the pairs of the train split best.

        Its scores are of these pairs, and say that it is to reach TARGET_LOSS.
        """
        config = config or VerifyConfig()
        between = {edge.ends for edge in weight_edges(self.model, wiring.nodes)}
        kept = None if between == wiring.edges else tuple(sorted(wiring.edges))
        bare = Circuit(self.name, self.model.config, wiring.nodes, self.means, kept_edges=kept)
        pairs = self.planted.pairs(config.pairs, "train", config.seed)
        with torch.no_grad():
            own, whole = bare.margins(self.model, pairs), margin(last_logits(self.model, pairs), pairs)
        calibration = fit_calibration(own, config.max_logit_scale)
        loss, accuracy = loss_of(calibration.apply(own)).item(), accuracy_of(calibration.apply(own)).item()
        unpruned = loss_of(whole).item(), accuracy_of(whole).item()
        sizes = len(wiring.edges), 0, 0
        scores = PruneScores(TARGET_LOSS, loss, math.nan, loss, accuracy, *unpruned, *sizes, seconds=0.0)
        return replace(bare, calibration=calibration, scores=scores)

    def check_input(self, wiring: Wiring, config: VerifyConfig | None = None) -> CheckInput:
        """What the checks of `thinwire.verify` get, for a circuit of these edges."""
        config = config or VerifyConfig()
        heldout, fit = (self.planted.pairs(config.pairs, split, config.seed) for split in ("heldout", "train"))
        circuit = self.circuit(wiring, config)
        return CheckInput(self.model, circuit, heldout, fit, config, pretraining=self.pretraining, task=self.task)


@torch.no_grad()
def means_of(model: Transformer, seed: int) -> dict[Site, Tensor]:
    """Means of every node over sequences of random tokens, float32 [width] per site."""
    seen = record()
    model(random_sequences(model, MEAN_ROWS, seed), tap=seen)
    return {site: x.mean((0, 1)) for site, x in seen.values.items()}


def random_sequences(model: Transformer, rows: int, seed: int) -> Tensor:
    """Sequences of random tokens as long as the context, without the end of text: int64 [rows, pos]."""
    size, generator = (rows, model.config.context), torch.Generator().manual_seed(seed)
    vocab = model.config.vocab_size
    return torch.randint(FIRST_TOKEN, vocab, size, generator=generator, dtype=torch.int64, device="cpu")

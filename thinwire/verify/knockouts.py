"""What single edges do: those of a circuit, and those that a random circuit adds to it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.circuit import EdgeEnds, weight_edges
from thinwire.circuit.calibration import side_signs
from thinwire.prune.passes import Parts, Passes, Replaceable, Token
from thinwire.tasks import PairBatch
from thinwire.verify.inputs import CheckInput
from thinwire.verify.nulls import Alike

MOST_DRAWS = 60
"""Random circuits that are drawn at most."""


@dataclass(frozen=True)
class Effects:
    """What removing edges changes: standard deviation over prompts of the change of the log-odds, nats.

    A change that is the same for all prompts is none, since calibration undoes it.
    """

    own: dict[EdgeEnds, float]
    """Of edges of the circuit, removed from it."""
    random: list[float]
    """Of edges that were added to the circuit, removed from the larger one."""


class Knockouts:
    """Removes edges from a circuit, and from the circuit together with a random one, on a batch."""

    def __init__(self, inputs: CheckInput, batch: PairBatch) -> None:
        circuit, self.inputs = inputs.circuit, inputs
        self.edges = frozenset(edge.ends for edge in circuit.edges(inputs.model))
        self.removed = frozenset(map(Token, circuit.removed_tokens))
        replaceable = Replaceable(inputs.model)
        self._passes = Passes(replaceable, circuit.means, batch, circuit.frozen_norms, circuit.ablated_embedding)

    def effects(self, most: int, n_random: int, each: int) -> Effects:
        """Effects of up to `most` edges of the circuit, and of `n_random` others, up to `each` of a random circuit.

        They are fewer where MOST_DRAWS random circuits do not have as many. The config's seed decides which.
        """
        inputs, generator = self.inputs, torch.Generator().manual_seed(self.inputs.config.seed)
        nodes, alike = frozenset(inputs.circuit.nodes), Alike(inputs.model, inputs.circuit, inputs.heldout)
        own = some_of(sorted(self.edges), most, generator)
        found = dict(zip(own, self._each(Parts(nodes, self.edges, self.removed), own), strict=True))
        random: list[float] = []
        for _ in range(MOST_DRAWS):
            drawn = alike.draw(generator)
            further = frozenset(edge.ends for edge in weight_edges(inputs.model, drawn)) - self.edges
            chosen = some_of(sorted(further), each, generator)
            random += self._each(Parts(nodes | set(drawn), self.edges | further, self.removed), chosen)
            if len(random) >= n_random:
                break
        return Effects(found, random[:n_random])

    def _each(self, parts: Parts, edges: Sequence[EdgeEnds]) -> list[float]:
        """The effect of removing each edge alone."""
        if not edges:
            return []
        self._passes.start_from(parts)
        whole, found = self._passes.margins(parts), []
        assert parts.kept_edges is not None
        for edge in edges:
            rest = Parts(parts.nodes, parts.kept_edges - {edge}, parts.removed)
            found.append(_offset_free(self._passes.margins(rest) - whole))
        return found


def some_of(edges: Sequence[EdgeEnds], most: int, generator: torch.Generator) -> list[EdgeEnds]:
    """Up to so many edges, at random, in their order."""
    chosen = torch.randperm(len(edges), generator=generator, dtype=torch.int64, device="cpu")[:most]
    return [edges[index] for index in sorted(chosen.tolist())]


def _offset_free(change: Tensor) -> float:
    """Standard deviation of the change of the first answer's log-odds, from that of margins [2n]."""
    return (change * side_signs(change)).std(correction=0).item()

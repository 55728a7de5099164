"""Causal scrubbing's first condition: values of a node that mean the same can be exchanged (Chan et al. 2022).

A `Hypothesis` says what a node means as a function of the tokens. `Scrubber` gives the node, at every position, the
value that it has in the circuit at another position with the same label, and runs the circuit on.

    mine = Hypothesis(Node.parse("0.mlp.post_act:17", model.config), lambda tokens: tokens == quote, "is a quote")
    loss = loss_of(inputs.calibration.apply(Scrubber(inputs, inputs.first(64)).margins([mine])))
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from thinwire.model.norms import Norms, ScaleRecorder, frozen, own_scales
from thinwire.model.taps import chain, patch, record
from thinwire.prune.means import inside
from thinwire.sites import Node
from thinwire.tasks import PairBatch
from thinwire.verify.inputs import CheckInput
from thinwire.verify.outside import EVERYWHERE

Label = Callable[[Tensor], Tensor]
"""From tokens int64 [2n, pos], rows as in `PairBatch`, to what they mean: bool or int64 [2n, pos]."""
EXPLAINED = 0.9
"""Share of a node's variance that a label explains, from which on it says what the node means."""


@dataclass(frozen=True)
class Hypothesis:
    """What a node means."""

    node: Node
    label: Label
    meaning: str = "as stated"
    """In a few words."""


class Scrubber:
    """A circuit alone on a batch, with values of its nodes exchanged between positions of the same label."""

    def __init__(self, inputs: CheckInput, batch: PairBatch) -> None:
        self.inputs, self.batch = inputs, batch

    @cached_property
    def values(self) -> dict[Node, Tensor]:
        """The values of the kept nodes with only the circuit, at all positions: float32 [2n, pos]."""
        inputs, tokens = self.inputs, self.batch.tokens
        seen = record({node.site for node in inputs.circuit.nodes})
        with torch.no_grad():
            norms = _norms(inputs, tokens)
            inputs.cut.run(inputs.cut.embed(tokens), tap=chain(inputs.circuit.to_tap(), seen), norms=norms)
        return {node: seen.values[node.site][..., node.index].float() for node in inputs.circuit.nodes}

    def margins(self, hypotheses: Iterable[Hypothesis]) -> Tensor:
        """Margins [2n] with the values of these nodes exchanged, each by itself, not calibrated.

        The config's seed decides how. Raises ValueError for nodes that the circuit does not keep, and labels of another
        shape than the tokens'.
        """
        inputs, generator = self.inputs, torch.Generator().manual_seed(self.inputs.config.seed)
        new = {one.node: self._exchanged(one, generator) for one in hypotheses}
        return inputs.margins(self.batch, chain(inputs.circuit.to_tap(), patch(new)), inputs.cut)

    def places(self, node: Node) -> Tensor:
        """Where a node's values count: at all real positions, or at the last ones of the prompts. bool [2n, pos]"""
        if node.site.layer < self.inputs.model.config.n_layers - 1 or node.site.kind in EVERYWHERE:
            return inside(self.batch)
        counted = torch.zeros_like(self.batch.tokens, dtype=torch.bool)
        return counted.scatter_(1, self.batch.last[:, None], True)

    def _exchanged(self, one: Hypothesis, generator: torch.Generator) -> Tensor:
        """New values [2n, pos] of a node."""
        if one.node not in self.values:
            raise ValueError(f"{one.node} is not in the circuit; state what one of its nodes means")
        real = self.places(one.node)
        value = self.values[one.node].clone()
        donors = partners(labelled(one.label, self.batch)[real], generator)
        value[real] = value[real][donors]
        return value

    def explained(self, node: Node, label: Label) -> float:
        """Share of the variance of a node's values that a label explains, adjusted for its number of different values.

        1 where the values do not vary.
        """
        real = self.places(node)
        _, groups = labelled(label, self.batch)[real].unique(return_inverse=True)
        values = self.values[node][real].double()
        n, several = len(values), int(groups.max()) + 1
        spread = (values - values.mean()).square().sum()
        if spread <= n * torch.finfo(torch.float32).eps * values.square().mean():
            return 1.0
        if n <= several:
            return 0.0
        zeros = torch.zeros(several, dtype=torch.float64, device="cpu")
        means = zeros.index_add(0, groups, values) / zeros.index_add(0, groups, torch.ones_like(values))
        rest = (values - means[groups]).square().sum()
        return 1 - (rest / (n - several) / (spread / (n - 1))).item()


def labelled(label: Label, batch: PairBatch) -> Tensor:
    """The labels of a batch int64 [2n, pos]. Raises ValueError for another shape than the tokens'."""
    found = label(batch.tokens)
    if found.shape != batch.tokens.shape:
        raise ValueError(f"a label is {list(found.shape)}; give one for each token, {list(batch.tokens.shape)}")
    return found.long()


def partners(labels: Tensor, generator: torch.Generator) -> Tensor:
    """For each of n labels another place with the same label, at random: int64 [n]. Each place is taken once.

    A label that occurs once keeps its place.
    """
    shuffled = torch.randperm(len(labels), generator=generator, dtype=torch.int64, device="cpu")
    order = shuffled[labels[shuffled].argsort(stable=True)]
    _, counts = labels[order].unique_consecutive(return_counts=True)
    ends = counts.cumsum(0) - 1
    following = order.roll(-1)
    following[ends] = order[ends - counts + 1]
    return torch.empty_like(order).index_copy_(0, order, following)


def anything(tokens: Tensor) -> Tensor:
    """All positions mean the same: int64 [2n, pos]."""
    return torch.zeros_like(tokens)


def decided(tokens: Tensor) -> Tensor:
    """Whether the deciding token came already, at which the prompts of a pair begin to differ: int64 [2n, pos]."""
    one, other = tokens.unflatten(0, (2, -1)).unbind()
    return ((one != other).cumsum(1) > 0).long().repeat(2, 1)


def side(tokens: Tensor) -> Tensor:
    """0 before the deciding token; from it on 1 on the first side of a pair, 2 on the second: int64 [2n, pos]."""
    sides = torch.ones(len(tokens), 1, dtype=torch.int64, device=tokens.device)
    sides[len(tokens) // 2 :] = 2
    return decided(tokens) * sides


def token(tokens: Tensor) -> Tensor:
    """The last token that was read: int64 [2n, pos]."""
    return tokens


def token_and_side(tokens: Tensor) -> Tensor:
    """Both: int64 [2n, pos]."""
    return tokens * 3 + side(tokens)


MEANINGS: dict[str, Label] = {
    "nothing": anything,
    "decided": decided,
    "side": side,
    "token": token,
    "token and side": token_and_side,
}
"""What the automatic labeller knows, coarsest first."""


def automatic(seen: Scrubber, nodes: Sequence[Node]) -> list[Hypothesis]:
    """The coarsest meaning of each node that explains its values on a batch, or the one that explains most."""
    found = []
    for node in nodes:
        each = {meaning: seen.explained(node, label) for meaning, label in MEANINGS.items()}
        enough = [meaning for meaning, share in each.items() if share >= EXPLAINED]
        meaning = enough[0] if enough else max(each, key=each.__getitem__)
        found.append(Hypothesis(node, MEANINGS[meaning], meaning))
    return found


def _norms(inputs: CheckInput, tokens: Tensor) -> Norms:
    """The norm scales of the circuit at all positions: its own, or those of the whole model."""
    if not inputs.circuit.frozen_norms:
        return own_scales
    recorder = ScaleRecorder()
    inputs.model.run(inputs.model.embed(tokens), norms=recorder)
    return frozen(recorder.scales, 1)

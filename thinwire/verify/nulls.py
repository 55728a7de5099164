"""Random circuits that look like a given one: as many nodes at every site, joined as its nodes are.

A circuit's nodes are replaced from the last to the first. The node that replaces one is drawn among those of its site
that are joined to as much as possible of what the node itself is joined to: replaced targets of its weights, replaced
readers of the channel that it writes, the logits of the answers, and the embeddings of the tokens in which the prompts
of a pair differ. So each random circuit runs along nonzero weights from the tokens that decide to the answers, with the
degrees of the circuit as far as the model has such weights.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from thinwire.circuit import Circuit
from thinwire.circuit.edges import channel_links, matrices
from thinwire.compiled.edit import nonzeros
from thinwire.model.transformer import Transformer
from thinwire.sites import Node, Site
from thinwire.tasks import PairBatch


class Alike:
    """Draws random circuits that look like one."""

    def __init__(self, model: Transformer, circuit: Circuit, batch: PairBatch) -> None:
        self.model, self.circuit, self.batch = model, circuit, batch
        self._targets: dict[Node, list[Node]] = {node: [] for node in circuit.nodes}
        self._readers: dict[Node, list[Node]] = {node: [] for node in circuit.nodes}
        self._writers: dict[Node, list[Node]] = {node: [] for node in circuit.nodes}
        for edge in circuit.edges(model):
            self._targets[edge.source].append(edge.target)
        for writer, reader in channel_links(circuit.nodes, model.config.d_model):
            self._readers[writer].append(reader)
            self._writers[reader].append(writer)
        self._joined = {
            (source, target): _joined(model, name, source, target)
            for name, source, target in matrices(model.config)
            if source in self._sites and target in self._sites
        }

    @cached_property
    def _sites(self) -> frozenset[Site]:
        return frozenset(node.site for node in self.circuit.nodes)

    @cached_property
    def _fed(self) -> dict[Site, Tensor]:
        """Whether a node of a site has a weight from any node of a site of the circuit: bool [width]."""
        found: dict[Site, Tensor] = {}
        for (_, target), joined in self._joined.items():
            found[target] = found.get(target, False) | joined.any(1)
        return found

    @cached_property
    def _deciding(self) -> Tensor:
        """Whether a token in which the two prompts of a pair differ writes a residual channel: bool [d_model]."""
        differ = self.batch.tokens.unflatten(0, (2, -1)).unbind()
        tokens = torch.zeros(self.model.config.vocab_size, dtype=torch.bool, device="cpu")
        for own, other in (differ, differ[::-1]):
            tokens[own[own != other]] = True
        found = torch.zeros(self.model.config.d_model, dtype=torch.bool, device="cpu")
        found[nonzeros(self.model, "embedding", tokens).columns] = True
        return found

    @cached_property
    def _logits(self) -> Tensor:
        """Whether a residual channel has a weight to an answer of the task: bool [d_model]."""
        answers = torch.zeros(self.model.config.vocab_size, dtype=torch.bool, device="cpu")
        answers[list(self.circuit.answer_tokens)] = True
        found = torch.zeros(self.model.config.d_model, dtype=torch.bool, device="cpu")
        found[nonzeros(self.model, "unembedding", answers).columns] = True
        return found

    def draw(self, generator: torch.Generator) -> list[Node]:
        """The nodes of a random circuit."""
        new: dict[Node, Node] = {}
        for node in reversed(self.circuit.nodes):
            taken = {other.index for other in new.values() if other.site == node.site}
            new[node] = Node(node.site, _drawn(self._score(node, new), taken, generator))
        return sorted(new.values())

    def _score(self, node: Node, new: Mapping[Node, Node]) -> Tensor:
        """For every node of a site, to how much of what `node` is joined to it is joined too: float32 [width]."""
        score = torch.zeros(node.site.width(self.model.config), dtype=torch.float32, device="cpu")
        for target in self._targets[node]:
            score += self._joined[node.site, target.site][new[target].index]
        if node.site.kind.endswith("resid_delta"):
            for reader in self._readers[node]:
                score[new[reader].index] += 1
            score += self._logits if self._logits[node.index] else 0
        d_model = self.model.config.d_model
        if node.site.kind.endswith("act_in") and node.index < d_model:
            for writer in self._writers[node]:
                if writer.site in self._fed:  # else the circuit has no node that could feed the writer
                    score[:d_model] += self._fed[writer.site]
            score[:d_model] += self._deciding if self._deciding[node.index] else 0
        elif node.site in self._fed:
            score += self._fed[node.site]
        return score


def _drawn(score: Tensor, taken: Collection[int], generator: torch.Generator) -> int:
    """One of the indices with the highest score [width], at random, among those that are not taken."""
    score = score.clone()
    score[list(taken)] = -1
    best: Sequence[int] = (score == score.max()).nonzero().flatten().tolist()
    return best[int(torch.randint(len(best), (), generator=generator, dtype=torch.int64, device="cpu"))]


def _joined(model: Transformer, name: str, source: Site, target: Site) -> Tensor:
    """Where a matrix has nonzero weights: bool [target width, source width]."""
    found = nonzeros(model, name)
    shape = target.width(model.config), source.width(model.config)
    joined = torch.zeros(shape, dtype=torch.bool, device="cpu")
    joined[found.rows, found.columns] = True
    return joined

"""A model in the making: random weights everywhere, and planted edges that they do not touch.

A planted *channel* is one of the residual stream that only planted weights read and write, but for dead ends: a value
channel and a neuron that read the first two planted channels, and whose output nothing reads. So every planted node can
be needed, and no other node is.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
from torch import Tensor

from thinwire.circuit import EdgeEnds
from thinwire.circuit.edges import MATRICES, matrix_name
from thinwire.model import ModelConfig, Transformer
from thinwire.planted.task import FIRST_TOKEN
from thinwire.sites import Node, Site

NOISE, EMBEDDED = 0.2, 0.3
"""Standard deviation of random weights of layers, and of embeddings."""
FELT = 0.5, -0.4
"""Weights of dead ends from the first two planted channels."""
VOTE = 1.5
"""Unembedding weight of the output channel to the first answer; the second has its negative."""


class Weight(NamedTuple):
    """A planted weight."""

    layer: int
    matrix: str
    """One of MATRICES."""
    target: int
    source: int
    value: float


class DeadEnd(NamedTuple):
    """The residual channel, the value channel and the neuron, in every layer, that lead nowhere."""

    channel: int
    v: int
    neuron: int


def matrix_at(model: Transformer, layer: int, name: str) -> Tensor:
    """The weight [target width, source width] of one of MATRICES in a layer."""
    return cast(Tensor, model.get_submodule(matrix_name(layer, name)).weight).detach()


@dataclass
class Draft:
    """Collects what is planted; `build` makes the model."""

    shape: ModelConfig
    dead: DeadEnd
    seed: int = 0
    """Of the random weights."""
    density: float = 1 / 3
    """Share of the weights of every matrix that are nonzero."""
    dead_weight: float = 0.7
    """Weight with which dead ends write to their channel."""
    rng: random.Random = field(default_factory=random.Random)
    """Chooses channels, neurons and heads where the caller does not."""
    ballast: float = 0.0
    """What every token writes to one more channel, so that norms hardly depend on the rest; 0 for none."""
    channels: list[int] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    biases: list[tuple[int, str, int, float]] = field(default_factory=list)
    """Layer, matrix, index of the target, value."""
    written: list[tuple[int, int, float]] = field(default_factory=list)
    """Token, channel, value."""
    votes: list[tuple[int, int, int, float]] = field(default_factory=list)
    """First answer, second answer, channel, weight."""
    answers: list[int] = field(default_factory=list)
    """Tokens that are answers: all of them have the same random unembedding."""
    deciding: list[int] = field(default_factory=list)
    """Tokens that decide an answer: all of them have the same random embedding."""
    neurons: set[tuple[int, int]] = field(default_factory=set)
    """Layer and index of planted neurons."""
    bare: set[tuple[int, int]] = field(default_factory=set)
    """Those of neurons without random weights."""
    heads: set[tuple[int, int]] = field(default_factory=set)
    """Those of planted heads, which look everywhere alike but for planted weights."""
    n_tokens: int = FIRST_TOKEN
    _ballast_channel: int | None = None

    @property
    def fillers(self) -> range:
        """The tokens without a role."""
        return range(self.n_tokens, self.shape.vocab_size)

    def token(self) -> int:
        """A token with a role of its own."""
        self.n_tokens += 1
        assert self.n_tokens < self.shape.vocab_size
        return self.n_tokens - 1

    def answer_pair(self) -> tuple[int, int]:
        """Two tokens to choose between."""
        both = self.token(), self.token()
        self.answers += both
        return both

    def channel(self, index: int | None = None) -> int:
        """A planted channel of the residual stream."""
        if index is None:
            taken = {*self.channels, self.dead.channel}
            index = self.rng.choice([i for i in range(self.shape.d_model) if i not in taken])
        self.channels.append(index)
        return index

    @property
    def constant(self) -> int:
        """The channel that every token writes the same to."""
        if self._ballast_channel is None:
            self._ballast_channel = self.channel()
        return self._ballast_channel

    def deciders(self, values: Iterable[Mapping[int, float]]) -> list[int]:
        """Tokens that decide an answer, by what each writes to planted channels."""
        made = [self.writer(each) for each in values]
        self.deciding += made
        return made

    def sides(self, first: Mapping[int, float], second: Mapping[int, float]) -> tuple[int, int]:
        """The tokens by which the two prompts of a pair differ, by what they write to planted channels."""
        one, other = self.deciders([first, second])
        return one, other

    def writer(self, values: Mapping[int, float]) -> int:
        """A token that writes these values to planted channels."""
        token = self.token()
        self.written += [(token, channel, value) for channel, value in values.items()]
        return token

    def edge(self, layer: int, matrix: str, target: int, source: int, value: float) -> EdgeEnds:
        """Plant one weight."""
        self.weights.append(Weight(layer, matrix, target, source, value))
        ends = (Node(Site.of(layer, kind), i) for kind, i in zip(MATRICES[matrix], (source, target), strict=True))
        return EdgeEnds(*ends)

    def neuron(
        self, layer: int, reads: Mapping[int, float], writes: Mapping[int, float], bias: float = 0.0, bare: bool = False
    ) -> list[EdgeEnds]:
        """Plant a neuron that reads and writes planted channels; a bare one has no other weights."""
        free = [i for i in range(self.shape.d_mlp) if i != self.dead.neuron and (layer, i) not in self.neurons]
        index = self.rng.choice(free)
        self.neurons.add((layer, index))
        if bare:
            self.bare.add((layer, index))
        edges = [self.edge(layer, "w_in", index, channel, value) for channel, value in reads.items()]
        edges += [self.edge(layer, "w_out", channel, index, value) for channel, value in writes.items()]
        if bias:
            self.biases.append((layer, "w_in", index, bias))
        return edges

    def average(self, layer: int, source: int, target: int, gain: float) -> list[EdgeEnds]:
        """Plant a head that averages a channel over all positions so far and writes `gain` times that to another."""
        return self._values(layer, self._head(layer), source, target, gain)

    def look(
        self, layer: int, query: Mapping[int, float], key: Mapping[int, float], value: tuple[int, int, float]
    ) -> tuple[list[EdgeEnds], list[EdgeEnds]]:
        """Plant a head that looks where the key channel stands high, when the query channel does.

        `query` and `key` give the weight of a channel, `value` is source, target and gain. Returns the edges of query
        and key, and those of the value.
        """
        head = self._head(layer)
        at = head * self.shape.d_head + self.rng.randrange(self.shape.d_head)
        pattern = [self.edge(layer, "w_q", at, channel, weight) for channel, weight in query.items()]
        pattern += [self.edge(layer, "w_k", at, channel, weight) for channel, weight in key.items()]
        return pattern, self._values(layer, head, *value)

    def _values(self, layer: int, head: int, source: int, target: int, gain: float) -> list[EdgeEnds]:
        v = head * self.shape.d_head + self.rng.randrange(self.shape.d_head)
        return [self.edge(layer, "w_v", v, source, 2.0), self.edge(layer, "w_o", target, v, gain / 2.0)]

    def _head(self, layer: int) -> int:
        dead = self.dead.v // self.shape.d_head
        free = [i for i in range(self.shape.n_heads) if i != dead and (layer, i) not in self.heads]
        head = self.rng.choice(free)
        self.heads.add((layer, head))
        return head

    def vote(self, answers: tuple[int, int], channel: int, weight: float = VOTE) -> None:
        """Let a channel push the first answer up and the second down."""
        self.votes.append((*answers, channel, weight))

    @torch.no_grad()
    def build(self) -> Transformer:
        """The model in float32; the same for the same draft."""
        if self.ballast:
            self.written += [(token, self.constant, self.ballast) for token in range(self.shape.vocab_size)]
        model = Transformer(self.shape)
        self._fill(model)
        for layer, head in self.heads:
            rows = slice(head * self.shape.d_head, (head + 1) * self.shape.d_head)
            for matrix in ("w_q", "w_k"):
                matrix_at(model, layer, matrix)[rows] = 0
        for layer, index in self.bare:
            matrix_at(model, layer, "w_in")[index] = 0
            matrix_at(model, layer, "w_out")[:, index] = 0
        for layer, matrix, target, source, value in self.weights:
            matrix_at(model, layer, matrix)[target, source] = value
        for layer, matrix, target, value in self.biases:
            cast(Tensor, model.get_submodule(matrix_name(layer, matrix)).bias)[target] = value
        self._fill_ends(model)
        return model.eval().requires_grad_(False)

    def _fill(self, model: Transformer) -> None:
        """Random weights in all matrices, away from planted channels; biases zero."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        planted, felt = self.channels, self.channels[:2]
        for layer in range(self.shape.n_layers):
            for matrix, (source, target) in MATRICES.items():
                weight = matrix_at(model, layer, matrix)
                weight.normal_(0, NOISE, generator=generator)
                weight.mul_(
                    torch.rand(weight.shape, generator=generator, dtype=torch.float32, device="cpu") < self.density
                )
                if source.endswith("act_in"):
                    weight[:, [*planted, self.dead.channel]] = 0
                    if target in ("attn.v", "mlp.post_act"):
                        dead = self.dead.v if target == "attn.v" else self.dead.neuron
                        weight[dead, felt] = torch.tensor(FELT[: len(felt)], dtype=torch.float32, device="cpu")
                else:
                    dead = self.dead.v if source == "attn.v" else self.dead.neuron
                    weight[planted] = 0
                    weight[:, dead] = 0
                    weight[self.dead.channel, dead] = self.dead_weight

    def _fill_ends(self, model: Transformer) -> None:
        """Embedding and unembedding: deciding tokens, and answers, differ in planted channels alone."""
        generator = torch.Generator().manual_seed(self.seed + 2)
        embedding, unembedding = model.embedding.weight, model.unembedding.weight
        embedding.normal_(0, EMBEDDED, generator=generator)
        embedding[:, self.channels] = 0
        for token in self.deciding[1:]:
            embedding[token] = embedding[self.deciding[0]]
        for token, channel, value in self.written:
            embedding[token, channel] = value
        unembedding.normal_(0, EMBEDDED, generator=generator)
        unembedding[:, self.channels] = 0
        for token in self.answers[1:]:
            unembedding[token] = unembedding[self.answers[0]]
        for first, second, channel, weight in self.votes:
            unembedding[first, channel], unembedding[second, channel] = weight, -weight

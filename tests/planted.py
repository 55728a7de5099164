"""Models with hand-set weights: one known, minimal circuit does a task, among weights that do nothing for it.

Token A or B writes +3 or -3 on one residual channel and is otherwise the same token. Edges carry that sign to a channel
that pushes answer X up and Y down. No other weight reads or writes the channels of the signal, except into dead ends:
channels that nothing reads. So every planted node is needed, and no other node is.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from thinwire.circuit.edges import MATRICES, matrix_name
from thinwire.model import ModelConfig, Transformer
from thinwire.model.taps import record
from thinwire.sites import Node, Site
from thinwire.tasks import PairBatch, Task

A, B, X, Y, FILLERS = 1, 2, 3, 4, range(5, 12)
SIGNAL, MIDDLE, OUT, DEAD_END = 0, 7, 11, 9
"""Residual channels: written by A and B, by an attention head, by the last planted weight, and read by nothing."""
SHAPE = ModelConfig(
    n_layers=2, d_model=16, d_head=4, mlp_ratio=2, context=8, vocab_size=12, bigram=False, active_fraction=0.75
)
DEAD_V, DEAD_NEURON = 13, 20
Entry = tuple[int, str, int, int, float]
"""A weight of an edge: layer, matrix, row (target), column (source), value."""


def matrix_at(model: Transformer, layer: int, name: str) -> Tensor:
    """The weight [target width, source width] of one of MATRICES in a layer."""
    return model.get_submodule(matrix_name(layer, name)).weight.detach()  # pyright: ignore


@dataclass(frozen=True)
class PlantedTask:
    """Sequences of fillers with one A or B, in the interface of `thinwire.tasks.Task`."""

    name: str
    at_the_end: bool
    """Whether A or B is the last token; otherwise it stands anywhere before."""
    control: None = None
    source: str = ""

    def pairs(self, n: int, split: str, seed: int, tokenizer: object = None, context: int | None = None) -> PairBatch:
        """n pairs that differ only in A or B; the tokenizer is not used."""
        rng = random.Random(f"{split}/{seed}")
        tokens = torch.zeros(2 * n, SHAPE.context, dtype=torch.int64, device="cpu")
        last = torch.zeros(2 * n, dtype=torch.int64, device="cpu")
        for row in range(n):
            length = rng.randint(4, SHAPE.context)
            prompt = [rng.choice(FILLERS) for _ in range(length)]
            place = length - 1 if self.at_the_end else rng.randrange(length - 1)
            for side, token in enumerate((A, B)):
                prompt[place] = token
                tokens[row + side * n, :length] = torch.tensor(prompt, device="cpu")
                last[row + side * n] = length - 1
        target = torch.tensor([X] * n + [Y] * n, device="cpu")
        return PairBatch(tokens, last, target, X + Y - target)


@dataclass(frozen=True)
class Planted:
    """A model, its task, and the circuit that does it."""

    model: Transformer
    planted: PlantedTask
    means: dict[Site, Tensor]
    nodes: tuple[Node, ...]
    """In the order of the forward pass."""
    edges: frozenset[tuple[str, str, float]]
    """Names of source and target, and the weight."""

    @property
    def task(self) -> Task:
        return cast(Task, self.planted)


def attention() -> Planted:
    """A channel of head 0 in layer 0 averages the signal of all tokens so far: 3 nodes, 2 edges."""
    return _plant("planted_attention", False, MIDDLE, [(0, "w_v", 1, SIGNAL, 2.0), (0, "w_o", MIDDLE, 1, 4.0)])


def mlp() -> Planted:
    """A neuron of layer 1 fires on A: 3 nodes, 2 edges, and a bias towards Y."""
    return _plant("planted_mlp", True, OUT, [(1, "w_in", 5, SIGNAL, 1.0), (1, "w_out", OUT, 5, 1.0)])


def chain() -> Planted:
    """The attention of layer 0 and then a neuron of layer 1: 6 nodes, 4 edges, joined by one residual channel."""
    entries = [
        (0, "w_v", 1, SIGNAL, 2.0),
        (0, "w_o", MIDDLE, 1, 4.0),
        (1, "w_in", 5, MIDDLE, 1.0),
        (1, "w_out", OUT, 5, 2.0),
    ]
    return _plant("planted_chain", False, OUT, entries)


CROSSING = 0.02
"""Weight of edges between planted nodes that carry next to nothing."""


@torch.no_grad()
def crossed() -> Planted:
    """One neuron fires on A and votes for X, another fires on B and votes for Y: 5 nodes, 4 edges.

    Here A and B write a channel each. Two more edges, which cross, join its nodes but are no part of the circuit.
    """
    entries = [
        (1, "w_in", 5, SIGNAL, 1.0),
        (1, "w_in", 6, MIDDLE, 1.0),
        (1, "w_out", OUT, 5, 1.0),
        (1, "w_out", OUT, 6, -1.0),
    ]
    plant = _plant("planted_crossed", True, OUT, entries)
    plant.model.unembedding.bias[[X, Y]] = 0
    plant.model.embedding.weight[B, [SIGNAL, MIDDLE]] = torch.tensor([0.0, 3.0])
    matrix_at(plant.model, 1, "w_in")[[5, 6], [MIDDLE, SIGNAL]] = CROSSING
    return replace(plant, means=_means(plant.model))


PLANTED: dict[str, Callable[[], Planted]] = {"attention": attention, "mlp": mlp, "chain": chain}


@torch.no_grad()
def _plant(name: str, at_the_end: bool, out: int, entries: Sequence[Entry]) -> Planted:
    model = Transformer(SHAPE)
    _fill_with_distractors(model)
    for layer, matrix, row, column, weight in entries:
        matrix_at(model, layer, matrix)[row, column] = weight
    _write_both_ends(model, out, shift=0.0 if out == MIDDLE else 1.5)
    nodes, edges = set(), set()
    for layer, matrix, row, column, weight in entries:
        source, target = (
            Node(Site.of(layer, kind), i) for kind, i in zip(MATRICES[matrix], (column, row), strict=True)
        )
        nodes |= {source, target}
        edges.add((source.name(SHAPE), target.name(SHAPE), weight))
    model.eval().requires_grad_(False)
    return Planted(model, PlantedTask(name, at_the_end), _means(model), tuple(sorted(nodes)), frozenset(edges))


def _fill_with_distractors(model: Transformer) -> None:
    """A third of all weights at random, away from the signal; biases of the layers zero."""
    generator = torch.Generator().manual_seed(1)
    for layer in range(SHAPE.n_layers):
        for matrix, (source, target) in MATRICES.items():
            weight = matrix_at(model, layer, matrix)
            weight.normal_(0, 0.2, generator=generator)
            weight.mul_(torch.rand(weight.shape, generator=generator) < 1 / 3)
            if source.endswith("act_in"):
                weight[:, [SIGNAL, MIDDLE, OUT, DEAD_END]] = 0
                dead = DEAD_V if target == "attn.v" else DEAD_NEURON
                if target in ("attn.v", "mlp.post_act"):
                    weight[dead, [SIGNAL, MIDDLE]] = torch.tensor([0.5, -0.4])
            else:
                weight[[SIGNAL, MIDDLE, OUT]] = 0
                dead = DEAD_V if source == "attn.v" else DEAD_NEURON
                weight[:, dead] = 0
                weight[DEAD_END, dead] = 0.7


def _write_both_ends(model: Transformer, out: int, shift: float) -> None:
    """Embedding and unembedding: A and B, and X and Y, are the same but for the signal."""
    generator = torch.Generator().manual_seed(2)
    model.embedding.weight.normal_(0, 0.3, generator=generator)
    model.embedding.weight[:, [SIGNAL, MIDDLE, OUT]] = 0
    model.embedding.weight[B] = model.embedding.weight[A]
    model.embedding.weight[A, SIGNAL], model.embedding.weight[B, SIGNAL] = 3, -3
    model.unembedding.weight.normal_(0, 0.3, generator=generator)
    model.unembedding.weight[Y] = model.unembedding.weight[X]
    model.unembedding.weight[X, out], model.unembedding.weight[Y, out] = 1.5, -1.5
    model.unembedding.bias[X], model.unembedding.bias[Y] = -shift, shift


def _means(model: Transformer) -> dict[Site, Tensor]:
    tokens = torch.randint(1, SHAPE.vocab_size, (512, SHAPE.context), generator=torch.Generator().manual_seed(3))
    seen = record()
    model(tokens, tap=seen)
    return {site: x.mean((0, 1)) for site, x in seen.values.items()}

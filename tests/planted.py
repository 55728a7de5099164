"""Small planted models whose every weight is known: what `thinwire.planted` builds, at fixed places.

Token A or B writes +3 or -3 on one residual channel and is otherwise the same token. Edges carry that sign to a channel
that pushes answer X up and Y down. No other weight reads or writes the channels of the signal, except into dead ends:
channels that nothing reads. So every planted node is needed, and no other node is.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from thinwire.model import ModelConfig, Transformer
from thinwire.planted import Planted, PlantedTask, Wiring
from thinwire.planted.draft import VOTE, DeadEnd, Draft, matrix_at
from thinwire.planted.model import means_of
from thinwire.planted.task import OneToken
from thinwire.sites import Site

__all__ = ["Planted", "PlantedTask", "matrix_at"]

A, B, X, Y, FILLERS = 1, 2, 3, 4, range(5, 12)
SIGNAL, MIDDLE, OUT, DEAD_END = 0, 7, 11, 9
"""Residual channels: written by A and B, by an attention head, by the last planted weight, and read by nothing."""
SHAPE = ModelConfig(
    n_layers=2, d_model=16, d_head=4, mlp_ratio=2, context=8, vocab_size=12, bigram=False, active_fraction=0.75
)
DEAD_V, DEAD_NEURON = 13, 20
Entry = tuple[int, str, int, int, float]
"""A weight of an edge: layer, matrix, row (target), column (source), value."""


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
    plant.means.update(_means(plant.model))
    return plant


PLANTED: dict[str, Callable[[], Planted]] = {"attention": attention, "mlp": mlp, "chain": chain}


def named_weights(plant: Planted) -> dict[tuple[str, str], float]:
    """The weights of the planted edges, by the names of source and target."""
    circuit = plant.circuit(plant.truth[0])
    return {(e.source.name(SHAPE), e.target.name(SHAPE)): e.weight for e in circuit.edges(plant.model)}


@torch.no_grad()
def _plant(name: str, at_the_end: bool, out: int, entries: Sequence[Entry]) -> Planted:
    draft = Draft(SHAPE, DeadEnd(DEAD_END, DEAD_V, DEAD_NEURON), channels=[SIGNAL, MIDDLE, OUT])
    edges = [draft.edge(*entry) for entry in entries]
    assert draft.sides({SIGNAL: 3.0}, {SIGNAL: -3.0}) == (A, B)
    assert draft.answer_pair() == (X, Y)
    draft.vote((X, Y), out)
    assert VOTE == 1.5
    model, shift = draft.build(), 0.0 if out == MIDDLE else 1.5
    model.unembedding.bias[X], model.unembedding.bias[Y] = -shift, shift
    task = PlantedTask(name, OneToken([(A, B)], FILLERS, "end" if at_the_end else "before"), (X, Y), SHAPE.context)
    return Planted(name, "test", model, task, _means(model), (Wiring.of(edges),))


def _means(model: Transformer) -> dict[Site, Tensor]:
    return means_of(model, seed=3)

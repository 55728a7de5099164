"""The circuit: nodes, wires, calibration and provenance of one pruned behaviour."""

from thinwire.circuit.circuit import Calibration, Circuit, PruneScores, Rung, calibrate
from thinwire.circuit.cut import held_embeddings, held_weights, sharing
from thinwire.circuit.edges import (
    Edge,
    TokenEdge,
    Wire,
    count_edges,
    embedding_edges,
    keep_masks,
    unembedding_edges,
    weight_edges,
)
from thinwire.circuit.origin import circuit_task
from thinwire.circuit.render import render

__all__ = [
    "Calibration",
    "Circuit",
    "Edge",
    "PruneScores",
    "Rung",
    "TokenEdge",
    "Wire",
    "calibrate",
    "circuit_task",
    "count_edges",
    "embedding_edges",
    "held_embeddings",
    "held_weights",
    "keep_masks",
    "render",
    "sharing",
    "unembedding_edges",
    "weight_edges",
]

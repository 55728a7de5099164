"""The circuit: nodes, wires, calibration and provenance of one pruned behaviour."""

from thinwire.circuit.calibration import Calibration, calibrate
from thinwire.circuit.circuit import Circuit, PruneScores, Rung
from thinwire.circuit.cut import held_weights
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
    "held_weights",
    "keep_masks",
    "render",
    "unembedding_edges",
    "weight_edges",
]

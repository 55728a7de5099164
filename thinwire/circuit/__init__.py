"""The circuit of a task: its nodes, edges, calibration and origin."""

from thinwire.circuit.calibration import Calibration, calibrate
from thinwire.circuit.circuit import Circuit
from thinwire.circuit.cut import ablated_weights
from thinwire.circuit.edges import (
    Edge,
    EdgeEnds,
    TokenEdge,
    count_edges,
    embedding_edges,
    keep_masks,
    unembedding_edges,
    weight_edges,
)
from thinwire.circuit.origin import circuit_task
from thinwire.circuit.render import render
from thinwire.circuit.scores import PruneScores, Rung

__all__ = [
    "Calibration",
    "Circuit",
    "Edge",
    "EdgeEnds",
    "PruneScores",
    "Rung",
    "TokenEdge",
    "ablated_weights",
    "calibrate",
    "circuit_task",
    "count_edges",
    "embedding_edges",
    "keep_masks",
    "render",
    "unembedding_edges",
    "weight_edges",
]

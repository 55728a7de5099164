"""The circuit: nodes, wires, calibration and provenance of one pruned behaviour."""

from thinwire.circuit.circuit import Calibration, Circuit, PruneScores, calibrate
from thinwire.circuit.cut import held_weights, sharing
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
from thinwire.circuit.render import render

__all__ = [
    "Calibration",
    "Circuit",
    "Edge",
    "PruneScores",
    "TokenEdge",
    "Wire",
    "calibrate",
    "count_edges",
    "embedding_edges",
    "held_weights",
    "keep_masks",
    "render",
    "sharing",
    "unembedding_edges",
    "weight_edges",
]

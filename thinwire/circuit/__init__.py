"""The circuit: nodes, wires, calibration and provenance of one pruned behaviour."""

from thinwire.circuit.circuit import Calibration, Circuit, PruneScores, calibrate
from thinwire.circuit.edges import Edge, TokenEdge, count_edges, embedding_edges, unembedding_edges, weight_edges
from thinwire.circuit.render import render

__all__ = [
    "Calibration",
    "Circuit",
    "Edge",
    "PruneScores",
    "TokenEdge",
    "calibrate",
    "count_edges",
    "embedding_edges",
    "render",
    "unembedding_edges",
    "weight_edges",
]

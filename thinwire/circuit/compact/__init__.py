"""Circuits that run as their own small graph, at a cost that follows their wires and not the model's width."""

from thinwire.circuit.compact.run import CompactCircuit

__all__ = ["CompactCircuit"]

"""Circuits that run as their own small graph, at a cost that follows their edges and not the model's width."""

from thinwire.compact.run import CompactCircuit

__all__ = ["CompactCircuit"]

"""Bridges between a dense and a sparse model: maps at every residual point, and what crosses them."""

"""Kernels behind PyTorch operators: exact selection, sparse products, and what runs between them feature by feature.

Everything here knows tensors only. Where activations lie decides which kernel runs: see `thinwire.engine.layout`.
"""

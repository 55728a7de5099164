"""Hugging Face causal models as the dense model of a bridge: an adapter for each family, and how a folder is opened.

Importing this room does not import `transformers`, which is needed only where a model is opened or runs.
"""

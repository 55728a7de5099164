"""What the kernels of attention take and return, in arrays, feature by feature."""

from typing import NamedTuple

import numpy as np


class AttentionInput(NamedTuple):
    """Queries, keys and values of all heads, and where the queries stand."""

    q: np.ndarray
    """float32 [head, d_head, batch, n_queries]"""
    k: np.ndarray
    """float32 [head, d_head, batch, pos]"""
    v: np.ndarray
    """float32 [head, d_head, batch, pos]"""
    sink: np.ndarray
    """Logit that each head adds to its softmax denominators; empty where there is no sink. float32 [head]"""
    queries: np.ndarray
    """Position of each query, which sees the positions up to its own. int64 [batch, n_queries]"""
    scale: np.float32
    """Factor of the scores."""


class AttentionResult(NamedTuple):
    """What heads return."""

    out: np.ndarray
    """float32 [head, d_head, batch, n_queries]"""
    log_sums: np.ndarray
    """Base-2 logarithms of the softmax denominators, for the backward pass; empty where there is none.

    float32 [head, batch, n_queries]
    """


class AttentionGradients(NamedTuple):
    """Gradients of the fields of `AttentionInput` that have one."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    sink: np.ndarray
    """float32 [head, batch], zeros before"""


class Head(NamedTuple):
    """Keys or values of one head of one sequence, contiguous, with indices of their nonzeros: see `heads.load_head`."""

    rows: np.ndarray
    """float32 [d_head, at least pos]"""
    constants: np.ndarray
    """The values of channels that are the same at all positions, zero for the others. float32 [d_head]"""
    by_channel: np.ndarray
    """Of channels that vary, a bit for each position of a tile where they are not zero. uint64 [d_head, tiles]"""
    by_position: np.ndarray
    """Of each position, a bit for each varying channel that is not zero, `BITS` a word. uint32 [words, positions]"""
    by_count: np.ndarray
    """For each number of nonzero varying channels, a bit for each position of a tile that has as many.

    uint64 [tiles, d_head + 1]
    """


class HeadSide(NamedTuple):
    """What the backward pass of one head needs of its keys, or its values."""

    head: Head
    query_rows: np.ndarray
    """What multiplies their gradients of scores or weights, query by query. float32 [TOKENS, channels]"""
    gradient: np.ndarray
    """The gradient so far, position by position. float32 [positions, channels]"""


class ForwardScratch(NamedTuple):
    """What a thread works in, forward. Tiles have a query in each lane."""

    queries: np.ndarray
    """Scaled queries, a tile [d_head, TOKENS]."""
    means: np.ndarray
    """Weighted sums of values, a tile [d_head, TOKENS]."""
    weights: np.ndarray
    """Weights of the positions of a tile, [TOKENS positions, TOKENS queries]."""
    rows: np.ndarray
    """How many positions each query sees, and a spare row [2, TOKENS]."""
    keys: Head
    values: Head
    streaming: bool
    """Whether the result is written with streaming stores."""


class BackwardScratch(NamedTuple):
    """What a thread works in, backward. Tiles have a query in each lane."""

    queries: np.ndarray
    """Scaled queries, a tile [d_head, TOKENS]."""
    grad: np.ndarray
    """Gradients of what the head returned, a tile [d_head, TOKENS]."""
    d_queries: np.ndarray
    """Gradients of the queries, a tile [d_head, TOKENS]."""
    weights: np.ndarray
    """Weights of the positions of a tile, [TOKENS positions, TOKENS queries]."""
    d_scores: np.ndarray
    """Gradients of scores, as the weights."""
    rows: np.ndarray
    """How many positions each query sees [1, TOKENS]."""
    keys: HeadSide
    values: HeadSide
    streaming_queries: bool
    """Whether the gradients of queries are written with streaming stores."""
    streaming_keys: bool
    """The same of keys and values."""


class UniformScratch(NamedTuple):
    """What the backward pass of a uniform head works in."""

    weights: np.ndarray
    """The weight that each query gives every position it sees. float32 [n_queries]"""
    means: np.ndarray
    """Mean gradient of each query's weights, zeros before. float32 [n_queries]"""
    weighted: np.ndarray
    """Gradients of the result times weights. float32 [d_head, n_queries]"""
    products: np.ndarray
    """Weights times means. float32 [n_queries]"""
    sums: np.ndarray
    """float32 [pos]"""
    moves: np.ndarray
    """Whether a channel of v adds to the gradients of scores. bool [d_head]"""

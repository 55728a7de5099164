"""Arguments of the kernels of this room."""

from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """Which rows of a site's map are constant over all tokens, and which compete for AbsTopK's places."""

    competing: np.ndarray
    """Indices of the rows that compete. int64 [competing]"""
    competes: np.ndarray
    """bool [rows]"""
    varies: np.ndarray
    """Whether a row differs between tokens. bool [rows]"""
    fixed: np.ndarray
    """Values of the rows that do not vary. float32 [rows]"""
    kept: np.ndarray
    """Values of the rows that do not compete. float32 [rows]"""


class Norm(NamedTuple):
    """An RMSNorm, and what it multiplied tokens by."""

    gain: np.ndarray
    """float32 [width]"""
    epsilon: np.float32
    """Added to the mean square of a token."""
    scales: np.ndarray
    """Result: 1 / sqrt(mean square of a token + epsilon). float32 [n]"""


class SiteResult(NamedTuple):
    """What the forward pass of a site left for its backward pass."""

    kept: np.ndarray
    """float32 [width, n]"""
    values: np.ndarray
    """Of the ablation, as its mask and flags: see `KernelAblation`."""
    mask: np.ndarray
    flags: np.ndarray
    short: np.ndarray
    """int8 [n]"""
    grad: np.ndarray
    """The gradient of `kept`. float32 [width, n]"""


class SiteGradients(NamedTuple):
    """What the backward pass of a site writes; an array is empty where its gradient is not needed."""

    x: np.ndarray
    """Of the input. float32 [in or 0, n]"""
    mapped: np.ndarray
    """Of the input of the nonlinearity. float32 [rows or 0, n]"""
    mask: np.ndarray
    """Of the ablation mask, from each tile of a trial. float32 [trials, tiles, rows or 0]"""

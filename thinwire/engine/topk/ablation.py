"""Nodes ablated to constants, as kernels do it on feature-major activations [width, n]."""

from typing import NamedTuple

import numpy as np


class KernelAblation(NamedTuple):
    """Which nodes of a site, or of several sites in a row, are moved towards constants; of n tokens, trial by trial."""

    values: np.ndarray
    """The constants. float32 [width]; empty where no node is ablated"""
    mask: np.ndarray
    """1 leaves a node as it is, 0 sets it to its constant, in between it moves there. float32 [trials, width or 0]"""
    flags: np.ndarray
    """Result, for a backward pass: 1 where an ablated node was not zero. int8 [width, n]; [0, n] where not wanted"""


class Output(NamedTuple):
    """Where kernels write what AbsTopK keeps of a site."""

    out: np.ndarray
    """float32 [width, n]"""
    short: np.ndarray
    """Whether a token has fewer than k nonzeros. bool [n]"""
    ablation: KernelAblation
    """What happens to the kept values."""
    streaming: bool
    """Whether `out` is written with streaming stores."""

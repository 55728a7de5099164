"""All that a layer does token by token in one operator, on a CPU, where nobody looks and no gradient is needed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from thinwire.engine import layer_kernels
from thinwire.engine.jit import use_threads
from thinwire.engine.layout import activations, empty_activations, features
from thinwire.engine.operator import operator
from thinwire.engine.sites import CODES, Nonlinearity

KINDS = torch.float32, torch.int32
"""What the kernel takes; other numbers become the first."""
NOTHING, NO_PLACE = torch.empty(0), torch.empty(0, dtype=torch.int32)
NO_MAP = NOTHING, NO_PLACE, NO_PLACE, NOTHING
"""What stands for what there is not: values, columns, starts and bias."""


class Map(NamedTuple):
    """A sparse map and how many AbsTopK keeps of what it makes."""

    values: Tensor
    columns: Tensor
    starts: Tensor
    """With the columns, where the nonzeros are: see `SparsePattern`."""
    bias: Tensor
    k: int


class Read(NamedTuple):
    """How a sublayer reads the residual stream."""

    gain: Tensor
    """Of the norm, [width]."""
    positions: Tensor | None
    """Position channels [..., d_pos] that go beside it."""
    k: int


class End(NamedTuple):
    """The end of an attention, and the MLP behind it."""

    heads: Tensor
    """What the heads return, [..., d_heads]."""
    write: Map
    read: Read
    first: Map
    nonlinearity: Nonlinearity
    second: Map


class Begin(NamedTuple):
    """The begin of an attention."""

    read: Read
    q: Map
    k: Map
    v: Map


def between_attentions(
    stream: Tensor, k_stream: int, epsilon: float, end: End | None, begin: Begin | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Take the residual stream [..., width] through the end of a layer, the begin of the next, or both.

    Returns the stream behind the MLP, of which `k_stream` channels are kept after each addition, and q, k and v
    [..., d_heads] of the next attention, which are empty without a `begin`; all are feature-major float32, as `stream`
    is. `epsilon` is that of the norms.
    """
    reads = [None if end is None else end.read, None if begin is None else begin.read]
    ends = [None] * 3 if end is None else [end.write, end.first, end.second]
    begins = [None] * 3 if begin is None else begin[1:]
    tensors = [NOTHING if end is None else end.heads]
    for read in reads:
        gain, positions, _ = read or (NOTHING, None, 0)
        tensors += [gain, NOTHING if positions is None else positions]
    for each in (*ends, *begins):
        tensors += NO_MAP if each is None else each[:4]
    ks = [0 if each is None else each.k for each in (*reads, *ends, *begins)]
    nonlinearity = CODES["identity" if end is None else end.nonlinearity]
    return _between_attentions(stream, tensors, [k_stream, nonlinearity, *ks], epsilon)


@operator("between_attentions")
def _between_attentions(
    stream: Tensor, tensors: Sequence[Tensor], numbers: Sequence[int], epsilon: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `between_attentions`, which says what comes in which order; empty tensors stand for what there is not."""
    rows = features(stream)
    width, n = rows.shape
    heads, gain, positions, next_gain, next_positions, *maps = tensors
    k_stream, nonlinearity, *ks = numbers
    w_o, w_in, w_out, *asking = (tuple(map(_array, maps[i : i + 4])) for i in range(0, len(maps), 4))
    made = [torch.empty(d, n) for d in (width, *(len(each[3]) for each in asking))]
    use_threads()
    layer_kernels.between_attentions(
        rows.detach().numpy(),
        _rows(heads, n),
        (_array(gain), _rows(positions, n)),
        w_o,
        w_in,
        w_out,
        nonlinearity,
        (_array(next_gain), _rows(next_positions, n)),
        *asking,
        (k_stream, *ks),
        np.float32(epsilon),
        torch.get_num_threads(),
        *(each.numpy() for each in made),
    )
    stream, q, k, v = (activations(each, stream.shape[:-1]) for each in made)
    return stream, q, k, v


def _array(x: Tensor) -> np.ndarray:
    x = x.detach()
    return (x if x.dtype in KINDS else x.float()).numpy()


def _rows(x: Tensor, n: int) -> np.ndarray:
    return features(x.detach().float()).numpy() if x.numel() else np.empty((0, n), np.float32)


@_between_attentions.register_fake
def _(stream, tensors, numbers, epsilon):
    widths = stream.shape[-1], *(len(bias) for bias in tensors[20::4])
    stream, q, k, v = (empty_activations(stream, width, torch.float32) for width in widths)
    return stream, q, k, v

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
from thinwire.engine.sites import CODES, Nonlinearity, matrix_numbers


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
    epsilon: float
    """What the norm adds to a mean square."""
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
    stream: Tensor, k_stream: int, end: End | None, begin: Begin | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Take the residual stream [..., width] through the end of a layer, the begin of the next, or both.

    Returns the stream behind the MLP, of which `k_stream` channels are kept after each addition, and q, k and v
    [..., d_heads] of the next attention, which are empty without a `begin`; all are feature-major float32.
    """
    nothing, no_place = stream.new_empty(0, dtype=torch.float32), stream.new_empty(0, dtype=torch.int32)
    reads = [None if end is None else end.read, None if begin is None else begin.read]
    ends = [None] * 3 if end is None else [end.write, end.first, end.second]
    begins = [None] * 3 if begin is None else begin[1:]
    tensors = [nothing if end is None else end.heads]
    for read in reads:
        gain, _, positions, _ = read or (nothing, 0, None, 0)
        tensors += [gain, nothing if positions is None else positions]
    for each in (*ends, *begins):
        tensors += (nothing, no_place, no_place, nothing) if each is None else each[:4]
    ks = [0 if each is None else each.k for each in (*reads, *ends, *begins)]
    nonlinearity = CODES["identity" if end is None else end.nonlinearity]
    epsilons = [0.0 if read is None else read.epsilon for read in reads]
    return _between_attentions(stream, tensors, [k_stream, nonlinearity, *ks], epsilons)


@operator("between_attentions")
def _between_attentions(
    stream: Tensor, tensors: Sequence[Tensor], numbers: Sequence[int], epsilons: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `between_attentions`, which says what comes in which order; empty tensors stand for what there is not."""
    rows = features(stream)
    width, n = rows.shape
    heads, gain, positions, next_gain, next_positions, *maps = tensors
    k_stream, nonlinearity, *ks = numbers
    w_o, w_in, w_out, *asking = (matrix_numbers(*maps[i : i + 4]) for i in range(0, len(maps), 4))
    made = [torch.empty(d, n) for d in (width, *(len(each[3]) for each in asking))]
    use_threads()
    layer_kernels.between_attentions(
        rows.detach().numpy(),
        _rows(heads, n),
        (gain.detach().float().numpy(), _rows(positions, n)),
        w_o,
        w_in,
        w_out,
        nonlinearity,
        (next_gain.detach().float().numpy(), _rows(next_positions, n)),
        *asking,
        (k_stream, *ks),
        tuple(map(np.float32, epsilons)),
        torch.get_num_threads(),
        *(each.numpy() for each in made),
    )
    stream, q, k, v = (activations(each, stream.shape[:-1]) for each in made)
    return stream, q, k, v


def _rows(x: Tensor, n: int) -> np.ndarray:
    return features(x.detach().float()).numpy() if x.numel() else np.empty((0, n), np.float32)


@_between_attentions.register_fake
def _(stream, tensors, numbers, epsilons):
    widths = stream.shape[-1], *(len(bias) for bias in tensors[20::4])  # those of q, k and v
    stream, q, k, v = (empty_activations(stream, width, torch.float32) for width in widths)
    return stream, q, k, v

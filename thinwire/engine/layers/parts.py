"""What layers consist of: as the model describes them, in tensors, and as kernels take them, in arrays.

Between two attentions a token passes the *end* of one layer (attention output map, MLP) and the *beginning* of the next
(norm, maps to q, k and v). Where there is no end or no beginning, kernels get arrays without channels.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thinwire.engine.layout import features, floats
from thinwire.engine.sites.operator import CODES, Nonlinearity
from thinwire.engine.spmm.pattern import SparsePattern, csr_matrix


class Map(NamedTuple):
    """A sparse map, and how many channels AbsTopK keeps of its result."""

    pattern: SparsePattern
    values: Tensor
    """[nonzeros]"""
    bias: Tensor
    """[out]"""
    k: int


class Read(NamedTuple):
    """How a sublayer reads the residual stream: RMSNorm, position channels if any, AbsTopK."""

    gain: Tensor
    """Of the norm. [width]"""
    epsilon: float
    """What the norm adds to the mean square."""
    positions: Tensor | None
    """Normed position channels [..., d_pos], which follow those of the stream."""
    k: int


class Beginning(NamedTuple):
    """The beginning of a layer, up to what its attention takes."""

    read: Read
    q: Map
    k: Map
    v: Map


class End(NamedTuple):
    """The end of a layer, from what its attention heads return."""

    write: Map
    """The attention's output map."""
    read: Read
    first: Map
    nonlinearity: Nonlinearity
    second: Map


class Layer(NamedTuple):
    """A whole layer."""

    beginning: Beginning
    n_heads: int
    sink: Tensor | None
    """Logit that each head adds to its softmax denominators. [n_heads]"""
    end: End


class KernelMap(NamedTuple):
    """`Map` for kernels: the fields of a `CsrMatrix`, and k."""

    values: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    bias: np.ndarray
    k: int


class KernelRead(NamedTuple):
    """`Read` for kernels."""

    gain: np.ndarray
    """float32 [width]"""
    epsilon: np.float32
    positions: np.ndarray
    """float32 [d_pos, n]"""
    k: int


class KernelBeginning(NamedTuple):
    """`Beginning` for kernels."""

    read: KernelRead
    q: KernelMap
    k: KernelMap
    v: KernelMap


class KernelEnd(NamedTuple):
    """`End` for kernels."""

    write: KernelMap
    read: KernelRead
    first: KernelMap
    nonlinearity: int
    second: KernelMap


_NO_FLOATS, _NO_INDICES = np.empty(0, np.float32), np.empty(0, np.int32)
_NO_MAP = KernelMap(_NO_FLOATS, _NO_INDICES, _NO_INDICES, _NO_FLOATS, 0)


Tuples = tuple[Any, ...]


def _no_read(n: int) -> KernelRead:
    return KernelRead(_NO_FLOATS, np.float32(0), np.empty((0, n), np.float32), 0)


def kernel_beginning(beginning: Beginning | None, n: int) -> Tuples:
    """What kernels take for the beginning of a layer that reads n tokens."""
    if beginning is None:
        return as_tuples(KernelBeginning(_no_read(n), _NO_MAP, _NO_MAP, _NO_MAP))
    maps = _map(beginning.q), _map(beginning.k), _map(beginning.v)
    return as_tuples(KernelBeginning(_read(beginning.read, n), *maps))


def kernel_end(end: End | None, n: int) -> Tuples:
    """What kernels take for the end of a layer that n tokens pass."""
    if end is None:
        return as_tuples(KernelEnd(_NO_MAP, _no_read(n), _NO_MAP, CODES["identity"], _NO_MAP))
    maps = _map(end.write), _map(end.first), _map(end.second)
    return as_tuples(KernelEnd(maps[0], _read(end.read, n), maps[1], CODES[end.nonlinearity], maps[2]))


def as_tuples(record: tuple[Any, ...]) -> Tuples:
    """A record of records as plain tuples, which kernels with parallel loops take, and faster."""
    return tuple(as_tuples(field) if isinstance(field, tuple) else field for field in record)


def _map(part: Map) -> KernelMap:
    return KernelMap(*csr_matrix(part.values, part.bias, part.pattern.indices, part.pattern.indptr), part.k)


def _read(part: Read, n: int) -> KernelRead:
    positions = np.empty((0, n), np.float32) if part.positions is None else by_feature(part.positions)
    return KernelRead(floats(part.gain), np.float32(part.epsilon), positions, part.k)


def by_feature(x: Tensor) -> np.ndarray:
    """The values of x [..., width] as float32 [width, n]; without a copy where x is feature-major float32."""
    return floats(features(x))


def site_widths(end: End | None, beginning: Beginning | None) -> list[int]:
    """How many nodes each site has that a token passes, in order."""
    widths: list[int] = []
    if end is not None:
        parts = end.write, end.read, end.first, end.second
        widths += [_read_width(part) if isinstance(part, Read) else part.pattern.n_rows for part in parts]
    if beginning is not None:
        widths += [_read_width(beginning.read), *(part.pattern.n_rows for part in beginning[1:])]
    return widths


def _read_width(read: Read) -> int:
    return len(read.gain) + (0 if read.positions is None else read.positions.shape[-1])


def empty_rows(width: int, n: int) -> np.ndarray:
    """Uninitialized float32 [width, n], in memory that torch allocates and reuses."""
    return torch.empty(width, n, dtype=torch.float32, device="cpu").numpy()

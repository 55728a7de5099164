"""What layers are made of, as operators and kernels take it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thinwire.engine.layout import features, floats
from thinwire.engine.pointwise import Held
from thinwire.engine.sites import CODES, Nonlinearity, matrix_numbers


class Map(NamedTuple):
    """A sparse map and how many AbsTopK keeps of what it makes."""

    values: Tensor
    columns: Tensor
    starts: Tensor
    """With the columns, where the nonzeros are: see `SparsePattern`."""
    bias: Tensor
    k: int


class Turned(NamedTuple):
    """Where the nonzeros of a map are, by its columns, which only the way back needs: see `SparsePattern`."""

    rows: Tensor
    column_starts: Tensor
    order: Tensor


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
    """The end of an attention, from what its heads return, and the MLP behind it."""

    write: Map
    read: Read
    first: Map
    nonlinearity: Nonlinearity
    second: Map
    turned: Turned
    """The second map."""


class Begin(NamedTuple):
    """The begin of an attention."""

    read: Read
    q: Map
    k: Map
    v: Map


def flat(k_stream: int, end: End | None, begin: Begin | None) -> tuple[list[Tensor], list[int], list[float]]:
    """What operators take for both, where empty tensors and zeros stand for what there is not.

    All tensors, as `Parts` has them; what is kept of the stream, the code of the nonlinearity, and what each AbsTopK
    keeps; the epsilons of both norms.
    """
    nothing, no_place = torch.empty(0), torch.empty(0, dtype=torch.int32)
    reads = [None if end is None else end.read, None if begin is None else begin.read]
    ends = [None] * 3 if end is None else [end.write, end.first, end.second]
    begins = [None] * 3 if begin is None else begin[1:]
    tensors = []
    for read in reads:
        gain, _, positions, _ = read or (nothing, 0, None, 0)
        tensors += [gain, nothing if positions is None else positions]
    for each in (*ends, *begins):
        tensors += (nothing, no_place, no_place, nothing) if each is None else each[:4]
    tensors += [no_place] * 3 if end is None else end.turned
    ks = [0 if each is None else each.k for each in (*reads, *ends, *begins)]
    nonlinearity = CODES["identity" if end is None else end.nonlinearity]
    return tensors, [k_stream, nonlinearity, *ks], [0.0 if read is None else read.epsilon for read in reads]


class Parts(NamedTuple):
    """What the flat list of tensors is that the operators take."""

    reads: list[Sequence[Tensor]]
    """Gain and position channels of each."""
    maps: list[Sequence[Tensor]]
    """Values, columns, starts and bias of each, in the order of their use."""
    turned: Sequence[Tensor]

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> "Parts":
        """Those that `flat` put together."""
        reads, maps = [tensors[i : i + 2] for i in (0, 2)], [tensors[i : i + 4] for i in range(4, 28, 4)]
        return cls(reads, maps, tensors[28:])

    def asked(self) -> list[int]:
        """How many channels q, k and v have."""
        return [bias.shape[0] for *_, bias in self.maps[3:]]

    def widths(self) -> list[int]:
        """How many nodes the sites have that are passed."""
        read = [gain.shape[0] + (positions.shape[-1] if positions.numel() else 0) for gain, positions in self.reads]
        written, between, delta, *asked = (bias.shape[0] for *_, bias in self.maps)
        return [width for width in (written, read[0], between, delta, read[1], *asked) if width]

    def as_kernels_take(self, n: int) -> tuple[Any, Any, list[tuple[np.ndarray, ...]]]:
        """Both reads, with position channels of n tokens, and six maps."""
        first, second = ((floats(gain), rows_of(positions, n)) for gain, positions in self.reads)
        return first, second, [matrix_numbers(*each) for each in self.maps]


def side_by_side(held: Sequence[Held], tensors: Sequence[Tensor], stream: Tensor) -> tuple[Tensor, Tensor]:
    """What nodes of all sites are held at, and one mask for them; without any nodes if nothing is held.

    Raises ValueError where something does not fit the sites or the stream [..., width].
    """
    if not held:
        return torch.empty(0), torch.empty(1, 0)
    for each, width in zip(held, Parts.of(tensors).widths(), strict=True):
        each.check(width, stream[..., 0].numel())
    if len({len(each.mask) for each in held}) > 1:
        raise ValueError("the masks of sites have different numbers of trials")
    return torch.cat([each.mean.float() for each in held]), torch.cat([each.mask.float() for each in held], 1)


def rows_of(x: Tensor, n: int) -> np.ndarray:
    """The numbers of x [..., width], which lie as they do if it is feature-major float32: [width, n]."""
    return floats(features(x)) if x.numel() else np.empty((0, n), np.float32)


def way_there(
    rows: np.ndarray,
    heads: np.ndarray,
    hold: tuple[np.ndarray, np.ndarray],
    parts: Parts,
    numbers: Sequence[int],
    epsilons: Sequence[float],
    made: tuple[np.ndarray, ...],
) -> tuple[Any, ...]:
    """What `layer_kernels.between_attentions` takes."""
    reads, next_reads, maps = parts.as_kernels_take(rows.shape[1])
    k_stream, nonlinearity, *ks = numbers
    return (
        rows,
        heads,
        reads,
        *maps[:3],
        nonlinearity,
        next_reads,
        *maps[3:],
        hold,
        (k_stream, *ks),
        tuple(map(np.float32, epsilons)),
        torch.get_num_threads(),
        made,
    )

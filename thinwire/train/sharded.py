"""Exact projection of parameters sharded by rows over several ranks, which exchange counts instead of weights.

Magnitudes order as their bit patterns, so the k-th largest of a group of entries is found digit by digit, from the
highest. The group is a whole matrix, or, for a floor along columns, one of its columns:

1. Every rank counts its candidates by their next digit, for many matrices at once; one all-reduce sums the counts.
2. The next digit is the one at which counting from the largest reaches the number still to be kept. Candidates with a
   larger digit are kept; those with a smaller one are dropped.
3. After the last digit the remaining candidates are equal. If there are more than are to be kept, the first in the
   order of the whole matrix are kept: those of lower ranks, which one more all-reduce counts, then of lower index.

The result is that of `thinwire.train.l0.project` on the whole matrices, bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from thinwire.engine.topk.select import keep_rows
from thinwire.model.transformer import Transformer
from thinwire.model.weights import floor_dim, sparse_parameters
from thinwire.train.rows import Peers, local, peers_of

BITS = 31
"""Bits of a magnitude in float32."""
LARGEST = 0x7FFFFFFF
"""The bit pattern given to entries that are kept in any case."""
DIGITS = (8, 4)
"""Bits of a digit: 2^8 counts for each matrix or column in 4 rounds or, if that is too many, 2^4 counts in 8."""
COUNTS = 2**20
"""The most counts that a rank may send in a round of the wider digit."""
AT_ONCE = 2**25
"""Entries of a rank that are projected together, so that temporary memory stays below a GiB."""


@dataclass(frozen=True)
class Shard:
    """One rank's rows of a matrix, and how many entries the whole matrix keeps."""

    values: Tensor
    """Float32 [rows, ...], possibly without rows; changed in place."""
    kept: int
    """Nonzeros of the whole matrix."""
    rows: int
    """Rows of the whole matrix."""
    floor_dim: int | None = None
    floor: int = 0
    """Entries that each row (floor_dim 1) or column (floor_dim 0) of the whole matrix keeps at least."""


@torch.no_grad()
def project(model: Transformer, kept: dict[str, int], floor: int) -> None:
    """Keep exactly the `kept[name]` largest entries of each sharded parameter, each floored channel's largest first."""
    peers = peers_of(next(model.parameters()))
    waiting: list[Shard] = []
    entries = 0
    for name, parameter in sparse_parameters(model):
        if kept[name] < parameter.numel():
            waiting.append(Shard(local(parameter), kept[name], parameter.shape[0], floor_dim(name), floor))
            entries += parameter.numel()  # of the whole matrix, so that all ranks form the same groups
        if entries > AT_ONCE * peers.size:
            project_shards(waiting, peers)
            waiting, entries = [], 0
    project_shards(waiting, peers)


@torch.no_grad()
def project_shards(shards: Sequence[Shard], peers: Peers) -> None:
    """The same for this rank's rows of some matrices; every rank must call it with rows of the same matrices."""
    bits = [shard.values.contiguous().view(torch.int32) & LARGEST for shard in shards]
    for shard, magnitudes in zip(shards, bits, strict=True):
        if shard.floor and shard.floor_dim == 1:
            reserved = keep_rows(shard.values, min(shard.floor, shard.values.shape[1])) != 0
            magnitudes.masked_fill_(reserved, LARGEST)
    columns = [(s, magnitudes) for s, magnitudes in zip(shards, bits, strict=True) if s.floor and s.floor_dim == 0]
    candidates = [_FloorCandidates.of(shard, magnitudes) for shard, magnitudes in columns]
    floors = [min(shard.floor, shard.rows) for shard, _ in columns]
    chosen = largest_of_columns([each.bits for each in candidates], floors, peers)
    for (_, magnitudes), each, reserved in zip(columns, candidates, chosen, strict=True):
        stays = reserved[each.slot, each.column]
        magnitudes[each.row[stays], each.column[stays]] = LARGEST
    flat = [magnitudes.reshape(-1, 1) for magnitudes in bits]
    chosen = largest_of_columns(flat, [shard.kept for shard in shards], peers)
    for shard, mask in zip(shards, chosen, strict=True):
        shard.values.masked_fill_(~mask.view_as(shard.values), 0)


def largest_of_columns(matrices: Sequence[Tensor], kept: Sequence[int], peers: Peers) -> list[Tensor]:
    """Where the kept[i] largest entries of each column of matrix i are, ties to the lowest row: bool, same shapes.

    `matrices` are this rank's rows, int32 [rows, columns] from 0 up; rows of lower ranks come first. A column
    must have at least kept[i] entries on all ranks together.
    """
    if not matrices:
        return []
    wide, narrow = DIGITS
    digit = wide if sum(matrix.shape[1] for matrix in matrices) << wide <= COUNTS else narrow
    searches = [_Search(matrix, k) for matrix, k in zip(matrices, kept, strict=True)]
    for shift in range((BITS - 1) // digit * digit, -1, -digit):
        counts = peers.sum(torch.cat([search.count(shift, digit) for search in searches]))
        for search, own in zip(searches, counts.split([s.columns for s in searches]), strict=True):
            search.choose(own, shift, digit)
    before = _ties_before(searches, peers)
    return [search.mask(ties) for search, ties in zip(searches, before, strict=True)]


@dataclass(frozen=True)
class _FloorCandidates:
    """The entries of a shard that may be among the `floor` largest of their column: the largest on this rank."""

    bits: Tensor
    """Magnitudes in the order of the rows, padded with zeros. int32 [floor, columns]"""
    slot: Tensor
    """Of each nonzero entry, its row in `bits`. int64 [nonzeros]"""
    row: Tensor
    """Of each nonzero entry, its row in the shard. int64 [nonzeros]"""
    column: Tensor
    """Of each nonzero entry, its column in both. int64 [nonzeros]"""

    @classmethod
    def of(cls, shard: Shard, magnitudes: Tensor) -> Self:
        """The candidates of a shard with magnitudes int32 [rows, columns]."""
        n_rows, n_columns = magnitudes.shape
        largest = keep_rows(shard.values.T, min(shard.floor, n_rows)) if n_rows else shard.values.T
        column, row = (largest != 0).nonzero(as_tuple=True)  # column by column, rows in order
        starts = torch.searchsorted(column, torch.arange(n_columns, device=column.device, dtype=torch.int64))
        slot = torch.arange(len(column), device=column.device, dtype=torch.int64) - starts[column]
        bits = magnitudes.new_zeros(shard.floor, n_columns)
        bits[slot, column] = magnitudes[row, column]
        return cls(bits, slot, row, column)


class _Search:
    """The digits found so far for the columns of one matrix, and the entries that share them."""

    def __init__(self, matrix: Tensor, kept: int) -> None:
        self.matrix = matrix  # [rows, columns]
        self.columns = matrix.shape[1]
        self.found = torch.zeros(self.columns, dtype=torch.int32, device=matrix.device)
        self.missing = torch.full_like(self.found, kept, dtype=torch.int64)  # still to be kept among the candidates
        self.ties = torch.zeros_like(self.missing)  # candidates left, on all ranks
        self.candidates = matrix.reshape(-1)
        self.column = torch.arange(self.columns, device=matrix.device, dtype=torch.int64).expand_as(matrix).reshape(-1)

    def count(self, shift: int, digit: int) -> Tensor:
        """This rank's candidates by their next digit [columns, 2^digit]."""
        bins = 1 << digit
        keys = (self.candidates >> shift) & (bins - 1)
        if self.columns > 1:
            keys = keys + self.column * bins
        return torch.bincount(keys, minlength=self.columns * bins).view(self.columns, bins)

    def choose(self, counts: Tensor, shift: int, digit: int) -> None:
        """Fix the next digit from the counts of all ranks [columns, 2^digit]."""
        reaching = counts.flip(-1).cumsum(-1).flip(-1)  # candidates with this digit or a larger one
        chosen = (reaching >= self.missing[:, None]).sum(-1, keepdim=True) - 1
        self.ties = counts.gather(-1, chosen)[:, 0]
        self.missing = self.missing - reaching.gather(-1, chosen)[:, 0] + self.ties
        self.found |= (chosen[:, 0] << shift).to(torch.int32)
        stay = self.candidates >> shift == (self.found >> shift)[self.column if self.columns > 1 else 0]
        self.candidates = self.candidates[stay]
        if self.columns > 1:
            self.column = self.column[stay]

    def mask(self, before: Tensor | None) -> Tensor:
        """Where this rank's kept entries are, given the ties that lower ranks have [columns]; None keeps every tie."""
        if before is None:
            return self.matrix >= self.found
        tied = self.matrix == self.found
        return (self.matrix > self.found) | (tied & (tied.cumsum(0) + before <= self.missing))


def _ties_before(searches: Sequence[_Search], peers: Peers) -> list[Tensor | None]:
    """For each search how many ties the lower ranks have [columns]; None where all ties are kept."""
    contested = [search for search in searches if bool((search.ties > search.missing).any())]
    if not contested:
        return [None] * len(searches)
    own = torch.cat([(search.matrix == search.found).sum(0) for search in contested])
    table = own.new_zeros(peers.size, len(own))
    table[peers.rank] = own
    before = peers.sum(table)[: peers.rank].sum(0).split([search.columns for search in contested])
    found = dict(zip(map(id, contested), before, strict=True))
    return [found.get(id(search)) for search in searches]

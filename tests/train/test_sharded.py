"""The projection of matrices that lie on several ranks, against that of the whole matrix, bit for bit."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thinwire.model.weights import floor_dim
from thinwire.train import sharded
from thinwire.train.l0 import project_values
from thinwire.train.sharded import BITS, LARGEST, Shard, largest_of_columns, project_shards

NAMES = ("blocks.0.attn.w_q.weight", "blocks.0.attn.w_o.weight", "embedding.weight", "unembedding.bias")
"""Parameters whose floor runs along rows, along columns, or not at all, and a vector."""


@dataclass
class Room:
    """What ranks in threads of one process share: they meet, add up, and go on."""

    size: int
    barrier: threading.Barrier = field(init=False)
    said: list[Tensor] = field(init=False)
    rounds: int = 0
    numbers: int = 0

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=20)
        self.said = [torch.empty(0)] * self.size


@dataclass
class Seat:
    """One rank of a room."""

    room: Room
    rank: int

    @property
    def size(self) -> int:
        return self.room.size

    def sum(self, counts: Tensor) -> Tensor:
        room = self.room
        room.said[self.rank] = counts.clone()
        room.barrier.wait()
        total = torch.stack(room.said).sum(0)
        if self.rank == 0:
            room.rounds += 1
            room.numbers += counts.numel()
        room.barrier.wait()
        return total


def on_ranks(size: int, work: Callable[[Seat], None]) -> Room:
    """Run `work` on every rank of a new room, each in a thread."""
    room, failed = Room(size), []

    def one(rank: int) -> None:
        try:
            work(Seat(room, rank))
        except BaseException as error:
            failed.append(error)
            room.barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in failed:
        raise error
    return room


def rows_of(matrix: Tensor, rank: int, size: int) -> Tensor:
    """The rows that FSDP gives a rank: equal chunks, of which the last are shorter or empty."""
    chunk = -(-len(matrix) // size)
    return matrix[rank * chunk : (rank + 1) * chunk].clone()


def check(matrices: dict[str, Tensor], kept: dict[str, int], floor: int, size: int) -> Room:
    """Project shards of the matrices and compare with the projection of each as a whole."""
    got: dict[tuple[str, int], Tensor] = {}

    def work(seat: Seat) -> None:
        own = {name: rows_of(matrix, seat.rank, size) for name, matrix in matrices.items()}
        project_shards(
            [Shard(own[name], kept[name], len(matrix), floor_dim(name), floor) for name, matrix in matrices.items()],
            seat,
        )
        got.update({(name, seat.rank): values for name, values in own.items()})

    room = on_ranks(size, work)
    for name, matrix in matrices.items():
        expected = matrix.clone()
        project_values(name, expected, kept[name], floor)
        whole = torch.cat([got[name, rank] for rank in range(size)])
        assert torch.equal(whole.view(torch.int32), expected.view(torch.int32)), name
    return room


def filled(shape: tuple[int, ...], how: str, generator: torch.Generator) -> Tensor:
    """A matrix of normal numbers; of few magnitudes, so that most tie; of one magnitude; mostly zero; or huge."""
    x = torch.randn(shape, generator=generator)
    if how == "ties":
        return (x * 2).round() / 2
    if how == "equal":
        return x.sign() * 0.3
    if how == "zeros":
        return torch.where(torch.rand(shape, generator=generator) < 0.8, x.sign() * 0.0, x)  # of both signs
    return x * torch.randint(-140, 120, shape, generator=generator).float().exp2() if how == "wide" else x


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 5),
    rows=st.integers(1, 13),
    columns=st.integers(1, 9),
    floor=st.integers(0, 3),
    how=st.sampled_from(["normal", "ties", "equal", "zeros", "wide"]),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_shards_are_projected_as_the_whole(
    size: int, rows: int, columns: int, floor: int, how: str, fraction: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: (rows,) if name.endswith("bias") else (rows, columns) for name in NAMES}
    matrices = {name: filled(shape, how, generator) for name, shape in shapes.items()}
    kept = {}
    for name, matrix in matrices.items():
        dim = floor_dim(name)
        least = max(1, 0 if dim is None else min(floor, matrix.shape[dim]) * matrix.shape[1 - dim])
        kept[name] = least + int(fraction * (matrix.numel() - least))
    check({name: m for name, m in matrices.items() if kept[name] < m.numel()}, kept, floor, size)


def test_ties_go_to_the_lower_rank_and_then_to_the_lower_row() -> None:
    """Two columns of equal entries, of which 3 are kept, on three ranks with 2, 2 and 1 rows."""
    masks = {}
    matrix = torch.full((5, 2), 7, dtype=torch.int32)
    matrix[4, 1] = 8

    def work(seat: Seat) -> None:
        (masks[seat.rank],) = largest_of_columns([rows_of(matrix, seat.rank, 3)], [3], seat)

    on_ranks(3, work)
    kept = torch.cat([masks[rank] for rank in range(3)]).int().T.tolist()
    assert kept == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 1]]


@pytest.mark.parametrize("digit", [1, 4, 5, 8, 15])
def test_every_width_of_digit_finds_the_same(digit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded, "DIGITS", (digit, digit))
    generator = torch.Generator().manual_seed(digit)
    matrix = torch.randint(0, LARGEST, (40, 3), dtype=torch.int32, generator=generator)
    matrix[::7] = LARGEST
    masks = {}

    def work(seat: Seat) -> None:
        (masks[seat.rank],) = largest_of_columns([rows_of(matrix, seat.rank, 2)], [11], seat)

    rounds = on_ranks(2, work).rounds
    assert -(-BITS // digit) <= rounds <= -(-BITS // digit) + 1
    expected = torch.zeros_like(matrix, dtype=torch.bool)
    expected.scatter_(0, matrix.argsort(dim=0, descending=True, stable=True)[:11], True)
    assert torch.equal(torch.cat([masks[0], masks[1]]), expected)


@pytest.mark.parametrize(("counts", "rounds", "bins"), [(2**20, 4, 256), (2**10, 8, 16)])
def test_what_travels_is_counts(counts: int, rounds: int, bins: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rounds of as many numbers a matrix, and a column, as a digit has values, however large the matrices."""
    monkeypatch.setattr(sharded, "COUNTS", counts)
    generator = torch.Generator().manual_seed(0)
    matrices = {name: torch.randn(96, 64, generator=generator) for name in NAMES[:3]}
    room = check(matrices, dict.fromkeys(matrices, 600), 2, 2)
    assert room.rounds == rounds + 4
    assert room.numbers == rounds * 64 * bins + 4 * 3 * 256

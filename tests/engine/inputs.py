"""Random inputs of the engine's tests: sparse, with ties, zeros and constants; and how failures name their case."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from thinwire.engine.layout import activations, features
from thinwire.engine.sites.pointwise import Ablation
from thinwire.engine.spmm.pattern import SparsePattern

SINK = torch.tensor([-2.0, 0.5, 3.0])
"""A sink for each of three heads."""


@contextmanager
def case(*parts: object) -> Iterator[None]:
    """Failures inside say what they are about."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"case {', '.join(map(str, parts))}: {error}") from error


@contextmanager
def nan_memory() -> Iterator[None]:
    """Inside, PyTorch fills new memory with NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def generator(seed: int) -> torch.Generator:
    """A random generator of its own."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=generator(seed))


def grid(*shape: int, seed: int = 0) -> Tensor:
    """Multiples of 1/4 from -2 to 2: float32 holds sums of products exactly, and many tie."""
    return torch.randint(-8, 9, shape, generator=generator(seed)) / 4


def thinned(x: Tensor, share: float, seed: int = 9) -> Tensor:
    """A share of the numbers, zeros in place of the others."""
    return x * (torch.rand(x.shape, generator=generator(seed)) < share)


def feature_major(x: Tensor) -> Tensor:
    """A leaf that lies feature by feature."""
    return activations(features(x.detach()), x.shape[:-1]).requires_grad_()


def head_major(rows: Tensor) -> Tensor:
    """[head, d_head, batch, pos] as [batch, head, pos, d_head], a leaf that lies as before."""
    return rows.detach().contiguous().permute(2, 0, 3, 1).requires_grad_()


def sparse(matrix: Tensor) -> tuple[SparsePattern, Tensor]:
    """The pattern and the values, a leaf, of a matrix."""
    rows, columns = matrix.nonzero(as_tuple=True)
    return SparsePattern.of(rows, columns, (matrix.shape[0], matrix.shape[1])), matrix[rows, columns].requires_grad_()


def at_nonzeros(matrix: Tensor, pattern: SparsePattern) -> Tensor:
    """The numbers of a dense matrix where the pattern has nonzeros."""
    return matrix[pattern.row_of_each(), pattern.indices.long()]


def draw_ablation(trials: int, width: int, share: float | None, seed: int = 3) -> Ablation:
    """Constants on the grid; a mask with a share of ones, zeros elsewhere, or of quarters where no share is given."""
    drawn = torch.rand(trials, width, generator=generator(seed))
    mask = (4 * drawn).round() / 4 if share is None else (drawn < share).float()
    return Ablation(grid(width, seed=seed + 1), mask.requires_grad_())


def last_positions(batch: int, length: int, n_queries: int) -> Tensor:
    """Queries at the last positions: int64 [batch, n_queries]."""
    return torch.arange(length - n_queries, length).expand(batch, -1)


def near_tie(y: Tensor, k: int, near: float = 1e-5) -> bool:
    """Whether rounding may change which k magnitudes of a row of y [..., n] are kept, or which are zero."""
    magnitudes = y.detach().abs().sort(-1, descending=True).values
    least = magnitudes[..., k - 1]
    most = magnitudes[..., k] if k < y.shape[-1] else torch.zeros_like(least)
    return bool(((least > 0) & (least - most < near)).any())

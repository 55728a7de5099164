"""What runs between guard pages: see `guard`. Collected by `test_guard` alone, in a process of its own."""

import pytest
import torch

from tests.engine.check_layers import Sizes, check_layers
from tests.engine.checks import (
    NONLINEARITIES,
    check_columns,
    check_gather,
    check_heads,
    check_largest,
    check_norm,
    check_pointwise,
    check_product,
    check_rows,
    check_site,
)
from tests.engine.guard import KERNELS
from tests.engine.inputs import SINK, case, grid, normal, thinned

TOKENS = (1, 2, 63, 64, 65, 127, 128, 129, 193)
"""Around multiples of a tile's tokens."""
WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 130)
"""Around multiples of registers' lanes."""


def run(width: int, n: int, trials: int, seed: int) -> None:
    """Every operator on about so many channels and tokens, n of them a trial."""
    k, lead = max(1, width // 3), (max(1, trials), n)
    for x in (normal(n, width, seed=seed), grid(n, width, seed=seed), thinned(grid(n, width), 0.1)):
        check_rows(x, k)
        check_rows(x.bfloat16(), k)
        check_columns(x.T.contiguous(), k)
        check_largest(x, max(1, x.numel() // 3))
    for density in (0.0, 0.1, 1.0):
        check_product(thinned(normal(width, 2 * width + 1), density), lead)
        check_product(thinned(normal(2 * width + 1, width), density), lead, by_feature=False)
        check_gather(thinned(normal(7, width), density), lead)
    for sink in (None, SINK):
        check_heads(n, min(width, 33), sink)
        check_heads(n, min(width, 33), sink, n_queries=(n + 1) // 2)
    for nonlinearity in NONLINEARITIES:
        check_site((width, 2 * width + 1, k, 0.3), lead, nonlinearity, trials, seed)
        check_site((2 * width + 1, width, 2 * width + 1, 0.3), lead, nonlinearity, trials, seed + 1)
    check_norm(width + 1, k, lead, trials, seed, share=0.5)
    check_pointwise(lead, width + 1, max(1, trials), (0.5, None)[seed % 2], 1e-5)
    check_layers(Sizes(width + 1, max(1, width // 2), width + 2, seed % 3), max(1, trials), n, 1, trials, seed)


@pytest.mark.parametrize(("width", "n", "trials"), [(9, 65, 0), (1, 1, 2), (20, 64, 1)])
def test_few(width: int, n: int, trials: int) -> None:
    torch.manual_seed(0)
    run(width, n, trials, seed=width)


@pytest.mark.slow
def test_many() -> None:
    for i, width in enumerate(WIDTHS):
        for j, n in enumerate(TOKENS):
            with case(f"width {width}, {n} tokens"):
                run(width, n, (i + j) % 4, seed=len(TOKENS) * i + j)


def test_every_kernel_ran_between_guard_pages() -> None:
    """A new kernel needs a case in `run`."""
    ours = {name: kernel for name, kernel in KERNELS.items() if name.startswith("thinwire.engine.")}
    assert [name for name, kernel in ours.items() if not kernel.calls] == []
    assert len(ours) > 20

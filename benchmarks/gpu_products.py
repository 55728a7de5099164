"""Sparse products on a CUDA device against the dense ones in bfloat16 that they replace; run by `gpu.py`."""

from collections.abc import Callable

import torch
from timing import medians, nothing
from torch import Tensor

from thinwire.engine.spmm.pattern import SparsePattern
from thinwire.engine.topk import select

KINDS = ("forward", "input_gradient", "weight_gradient")


def measure_product(
    shape: tuple[int, int], tokens: int, density: float, dtype: torch.dtype, rounds: int, device: torch.device
) -> dict[str, object]:
    """Products of a sparse matrix [out, in] and activations: milliseconds, ratios, and whether the results are close.

    The dense products take token-major bfloat16, whatever `dtype` is. Our weight gradient is that of the nonzeros.
    """
    from thinwire.engine.gpu import products

    generator = torch.Generator(device).manual_seed(0)
    n_out, n_in = shape
    matrix = torch.randn(shape, generator=generator, device=device)
    select.keep_largest_(matrix, max(1, round(density * matrix.numel())))
    where = matrix.nonzero(as_tuple=True)
    pattern, values = SparsePattern.of(*where, shape), matrix[where]
    x = torch.randn(n_in, tokens, generator=generator, device=device).to(dtype)
    grad = torch.randn(n_out, tokens, generator=generator, device=device).to(dtype)
    bias = torch.zeros(n_out, device=device)
    zeros = torch.zeros(n_in, device=device)
    by_token, grad_by_token, dense = (each.bfloat16().contiguous() for each in (x.T, grad.T, matrix))
    ours: dict[str, Callable[[], Tensor]] = {
        "forward": lambda: products.multiply(x, values, bias, pattern.indices, pattern.indptr),
        "input_gradient": lambda: products.multiply(
            grad, values[pattern.csc_order], zeros, pattern.csc_indices, pattern.csc_indptr
        ),
        "weight_gradient": lambda: products.weight_gradient(pattern.indices, pattern.indptr, x, grad),
    }
    theirs: dict[str, Callable[[], Tensor]] = {
        "forward": lambda: by_token @ dense.T,
        "input_gradient": lambda: grad_by_token @ dense,
        "weight_gradient": lambda: grad_by_token.T @ by_token,
    }
    found: dict[str, object] = {"shape": list(shape), "tokens": tokens, "nonzeros": len(values), "density": density}
    found["dtype"] = str(dtype).removeprefix("torch.")
    for kind in KINDS:
        times = medians({"ours": (nothing, ours[kind]), "dense": (nothing, theirs[kind])}, rounds, device)
        found |= {f"{kind}_ours_ms": times["ours"], f"{kind}_dense_ms": times["dense"]}
        found[f"{kind}_speedup"] = times["dense"] / times["ours"]
    expected = theirs["forward"]().T, theirs["input_gradient"]().T, theirs["weight_gradient"]()[where]
    found["close"] = all(_close(ours[kind](), twin) for kind, twin in zip(KINDS, expected, strict=True))
    return found


def _close(ours: Tensor, theirs: Tensor) -> bool:
    """Whether the relative error is below one percent; rounding to bfloat16 causes a few thousandths."""
    return bool((ours.float() - theirs.float()).norm() < 0.01 * theirs.float().norm())


def measure_columns(width: int, tokens: int, rounds: int, device: torch.device) -> dict[str, object]:
    """AbsTopK of feature-major float32 activations: its kernel against two transposes; milliseconds, GB/s."""
    from thinwire.engine.gpu import rows

    k = width // 4
    x = torch.randn(width, tokens, generator=torch.Generator(device).manual_seed(0), device=device)

    def transposed() -> Tensor:
        return rows.keep_rows(x.T.contiguous(), k).T.contiguous()

    def ours() -> Tensor:
        return rows.keep_columns(x, k)

    times = medians({"ours": (nothing, ours), "transposed": (nothing, transposed)}, rounds, device)
    return {
        "width": width,
        "tokens": tokens,
        "ours_ms": times["ours"],
        "transposed_ms": times["transposed"],
        "speedup": times["transposed"] / times["ours"],
        "gb_per_s": 2 * x.numel() * x.itemsize / 1e6 / times["ours"],
        "exact": torch.equal(ours(), transposed()),
    }


def print_products(products: list[dict], columns: list[dict]) -> None:
    """Print the tables of sparse products and of AbsTopK on their results."""
    print("sparse product       1/density  forward ms  ratio  input grad  ratio  weight grad  ratio  close")
    for row in products:
        shape = " x ".join(map(str, row["shape"]))
        times = "".join(f"{row[f'{kind}_ours_ms']:>12.3f} {row[f'{kind}_speedup']:>6.2f}" for kind in KINDS)
        close = "yes" if row["close"] else "NO"
        print(f"{shape:<14}{row['dtype']:<10}{1 / row['density']:>5.0f}{times}  {close}")
    print("AbsTopK, feature-major  ms  two transposes  ratio   GB/s  exact")
    for row in columns:
        exact = "yes" if row["exact"] else "NO"
        title = f"{row['width']} x {row['tokens']}"
        print(
            f"{title:<20}{row['ours_ms']:>6.3f} {row['transposed_ms']:>15.3f} {row['speedup']:>6.2f} "
            f"{row['gb_per_s']:>6.0f}  {exact}"
        )

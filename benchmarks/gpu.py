"""Selection, sparse products and whole training steps on a CUDA device: `python benchmarks/gpu.py [--json]`.

Four comparisons in one run. AbsTopK and the projection of a weight matrix: the Triton kernels against `torch.topk`.
Sparse products against dense products, and AbsTopK of their results: see `gpu_products.py`. A training step at width
2048: sparse, dense of the same shape, and the plain-PyTorch twin (`plain.py`) of the sparse step. Times are medians.
The device's clock times kernels, the wall clock times steps. Selections are compared with a stable sort, also on rows
of few distinct values. Exits with 2 where there is no CUDA device or no Triton.
"""

import argparse
import gc
import json
import statistics
import sys
from importlib.util import find_spec

import torch
from gpu_products import measure_columns, measure_product, print_products
from plain import PlainAbsTopK
from steps import KINDS, stepper
from timing import machine, medians, nothing, on_host
from torch import Tensor

from thinwire.engine.topk import reference
from thinwire.train import TrainConfig
from thinwire.train.presets import paper

ROWS = ((4096, 1024), (65_536, 2048), (65_536, 8192))
"""Shapes of AbsTopK: tokens, channels; a quarter of the channels survives."""
MATRIX = (2048, 8192)
"""Shape of a projected weight matrix."""
DENSITY, FLOOR = 1 / 64, 4
DENSITIES, TOKENS = (1 / 64, 1 / 256, 1 / 1024), 4096
"""Densities of a sparse matrix of shape MATRIX, and the tokens that it multiplies."""
AFTER_ANNEAL = 0.9
"""Fraction of training that is done when a step is timed."""
CHECKED_ROWS = 4096
"""Rows that are compared with a sort; the sort takes many times their memory."""


def measure_rows(rows: int, width: int, dtype: torch.dtype, rounds: int, device: torch.device) -> dict[str, object]:
    """AbsTopK on one shape: milliseconds forward and backward, GB/s of the data that must move, exactness."""
    from thinwire.engine.gpu.rows import keep_rows, pass_rows

    k = width // 4
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(rows, width, generator=generator, device=device).to(dtype)
    gradient = torch.randn(rows, width, generator=generator, device=device).to(dtype)
    tied = torch.randint(-4, 5, (min(rows, CHECKED_ROWS), width), generator=generator, device=device).to(dtype)
    twin, kept = PlainAbsTopK(k), keep_rows(x, k)
    below = x.clone().requires_grad_()
    above = twin(below)
    forward = medians({"ours": (nothing, lambda: keep_rows(x, k)), "plain": (nothing, lambda: twin(x))}, rounds, device)
    backward = medians(
        {
            "ours": (nothing, lambda: pass_rows(kept, gradient, k)),
            "plain": (nothing, lambda: torch.autograd.grad(above, below, gradient, retain_graph=True)),
        },
        rounds,
        device,
    )
    moved = x.numel() * x.itemsize / 1e6  # MB, so that dividing by milliseconds gives GB/s
    return {
        "rows": rows,
        "width": width,
        "dtype": str(dtype).removeprefix("torch."),
        "ours_ms": forward["ours"],
        "plain_ms": forward["plain"],
        "speedup": forward["plain"] / forward["ours"],
        "gb_per_s": 2 * moved / forward["ours"],
        "backward_ours_ms": backward["ours"],
        "backward_plain_ms": backward["plain"],
        "backward_speedup": backward["plain"] / backward["ours"],
        "backward_gb_per_s": 3 * moved / backward["ours"],
        "exact": all(_exact(sample, k) for sample in (x[:CHECKED_ROWS], tied)),
    }


def _exact(x: Tensor, k: int) -> bool:
    from thinwire.engine.gpu.rows import keep_rows

    return torch.equal(keep_rows(x, k), reference.keep_rows(x, k))


def measure_projection(shape: tuple[int, int], floor: int, rounds: int, device: torch.device) -> dict[str, object]:
    """Projection of a float32 matrix with `floor` entries of each row reserved: milliseconds, ratio, exactness."""
    from thinwire.engine.gpu.rows import keep_largest_, keep_rows

    generator = torch.Generator(device).manual_seed(0)
    source = torch.randn(shape, generator=generator, device=device)
    k = round(source.numel() * DENSITY)
    reserved = keep_rows(source, floor) != 0 if floor else None
    matrix = torch.empty_like(source)

    def plain() -> None:
        score = matrix.abs() if reserved is None else matrix.abs().masked_fill(reserved, torch.inf)
        mask = torch.zeros(matrix.numel(), dtype=torch.bool, device=device)
        mask[score.flatten().topk(k, sorted=False).indices] = True
        matrix.mul_(mask.view_as(matrix))

    def restore() -> None:
        matrix.copy_(source)

    calls = {"ours": lambda: keep_largest_(matrix, k, reserved), "plain": plain}
    times = medians({name: (restore, call) for name, call in calls.items()}, rounds, device)
    results = []
    for values in (source, (2 * source).round()):  # many ties
        matrix.copy_(values)
        keep_largest_(matrix, k, reserved)
        score = values.abs() if reserved is None else values.abs().masked_fill(reserved, torch.inf)
        expected = torch.where(reference.keep_mask(score.flatten(), k).view(shape), values, 0)
        results.append(torch.equal(matrix, expected))
    return {
        "shape": list(shape),
        "floor": floor,
        "ours_ms": times["ours"],
        "plain_ms": times["plain"],
        "speedup": times["plain"] / times["ours"],
        "exact": all(results),
    }


def measure_step(kind: str, config: TrainConfig, rounds: int, device: torch.device) -> dict[str, float]:
    """Milliseconds, tokens per second and peak GB of one kind of step. Nothing else runs on the device."""
    gc.collect()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step = stepper(kind, config, AFTER_ANNEAL, device)

    def whole() -> None:
        step()
        if on_gpu:
            torch.cuda.synchronize()

    times = []
    for round_ in range(2 + rounds):
        took = on_host(whole)
        if round_ >= 2:
            times.append(took)
    middle = statistics.median(times)
    return {
        "ms": middle,
        "tokens_per_second": 1e3 * config.batch_size * config.model.context / middle,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0,
    }


def print_selection(rows: list[dict], projections: list[dict]) -> None:
    """Print the tables of AbsTopK and of the projection."""
    print("AbsTopK               forward ms  torch.topk  ratio   GB/s  backward ms  ratio   GB/s  exact")
    for row in rows:
        print(
            f"{row['rows']:>6} x {row['width']:<5}{row['dtype']:<9}{row['ours_ms']:>9.3f} {row['plain_ms']:>11.3f} "
            f"{row['speedup']:>6.1f} {row['gb_per_s']:>6.0f} {row['backward_ours_ms']:>12.3f} "
            f"{row['backward_speedup']:>6.1f} {row['backward_gb_per_s']:>6.0f}  {'yes' if row['exact'] else 'NO'}"
        )
    print("projection            ms  torch.topk  ratio  exact")
    for row in projections:
        shape, exact = " x ".join(map(str, row["shape"])), "yes" if row["exact"] else "NO"
        title = f"{shape} floor {row['floor']}"
        print(f"{title:<20}{row['ours_ms']:>6.3f} {row['plain_ms']:>9.3f} {row['speedup']:>7.1f}  {exact}")


def measure_steps(config: TrainConfig, rounds: int, device: torch.device) -> dict[str, object]:
    """Time all kinds of step of one run, one after the other; print a line each. Returns times and ratios."""
    found = {}
    print("step      tokens/s   ms/step  peak GB")
    for kind in KINDS:
        found[kind] = measure_step(kind, config, rounds, device)
        print("{:<7} {tokens_per_second:>10,.0f} {ms:>9.1f} {peak_gb:>8.2f}".format(kind, **found[kind]))
    return {
        "width": config.model.d_model,
        "layers": config.model.n_layers,
        "batch_size": config.batch_size,
        "sparse_over_dense": found["sparse"]["ms"] / found["dense"]["ms"],
        "plain_over_sparse": found["plain"]["ms"] / found["sparse"]["ms"],
        **found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--width", type=int, default=2048, help="of the training step")
    parser.add_argument("--layers", type=int, default=8, help="of the training step")
    parser.add_argument("--batch-size", type=int, default=64, help="sequences of 256 tokens in a training step")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no CUDA device here; run this benchmark on a machine that has one.", file=sys.stderr)
        raise SystemExit(2)
    if find_spec("triton") is None:
        print("Triton is not installed here; install it with `pip install triton`.", file=sys.stderr)
        raise SystemExit(2)
    device = torch.device("cuda")
    dtypes = (torch.bfloat16, torch.float32)
    rows = [measure_rows(*shape, dtype, args.rounds, device) for dtype in dtypes for shape in ROWS]
    projections = [measure_projection(MATRIX, floor, args.rounds, device) for floor in (0, FLOOR)]
    print_selection(rows, projections)
    products = [
        measure_product(MATRIX, TOKENS, each, dtype, args.rounds, device) for dtype in dtypes for each in DENSITIES
    ]
    columns = [measure_columns(width, TOKENS, args.rounds, device) for width in MATRIX]
    print_products(products, columns)
    run = paper()
    model = run.model.replace(n_layers=args.layers, d_model=args.width)
    steps = measure_steps(run.replace(model=model, batch_size=args.batch_size), args.rounds, device)
    print(
        f"at width {args.width} the sparse step takes {steps['sparse_over_dense']:.2f} times the dense step, "
        f"plain PyTorch {steps['plain_over_sparse']:.2f} times ours"
    )
    if args.json:
        properties = torch.cuda.get_device_properties(device)
        gpu = {"name": properties.name, "gb": properties.total_memory / 1e9}
        kernels = {"rows": rows, "projection": projections, "products": products, "columns": columns}
        print(json.dumps({**kernels, "step": steps, "gpu": gpu, "machine": machine()}))


if __name__ == "__main__":
    main()

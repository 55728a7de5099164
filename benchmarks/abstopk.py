"""AbsTopK against `torch.topk`, on one core: `python benchmarks/abstopk.py [--json]`.

Both keep the k = width/4 largest magnitudes of each row of 4096 × 1024. The kernel is exact where magnitudes tie: each
result is compared with a stable sort, also on rows of few distinct values.
"""

import argparse
import json

import torch
from plain import PlainAbsTopK
from timing import in_turns, machine
from torch import Tensor

from thinwire.engine.process_memory import hold_freed_memory
from thinwire.engine.topk.reference import keep_mask
from thinwire.engine.topk.select import keep_rows

ROWS, WIDTH = 4096, 1024


def exact(x: Tensor, k: int) -> bool:
    """Whether the kernel keeps what a stable sort keeps."""
    return torch.equal(keep_rows(x, k), torch.where(keep_mask(x, k), x, 0))


def measure(dtype: torch.dtype, rounds: int) -> dict[str, object]:
    """Milliseconds of both, their ratio, and whether the kernel is exact, ties included."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, WIDTH, generator=generator).to(dtype)
    tied = torch.randint(-4, 5, (ROWS, WIDTH), generator=generator).to(dtype)
    k = WIDTH // 4
    plain = PlainAbsTopK(k)
    seconds = in_turns({"ours": lambda: keep_rows(x, k), "plain": lambda: plain(x)}, rounds)
    return {
        "ours_ms": 1e3 * seconds["ours"],
        "plain_ms": 1e3 * seconds["plain"],
        "speedup": seconds["plain"] / seconds["ours"],
        "exact": exact(x, k) and exact(tied, k),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    hold_freed_memory()
    found = {name: measure(getattr(torch, name), args.rounds) for name in ("float32", "bfloat16")}
    for name, row in found.items():
        print(
            f"{name:<9} {ROWS} x {WIDTH}: {row['ours_ms']:.2f} ms, torch.topk {row['plain_ms']:.1f} ms, "
            f"{row['speedup']:.1f} times as fast, {'exact' if row['exact'] else 'NOT EXACT'}"
        )
    if args.json:
        print(json.dumps({**found["float32"], "bfloat16": found["bfloat16"], "machine": machine()}))


if __name__ == "__main__":
    main()

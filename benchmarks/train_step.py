"""One training step, three ways, in one run: `python benchmarks/train_step.py [--json]`.

The sparse step of this package, its dense step of the same shape (no AbsTopK, no projection), and the plain-PyTorch
twin of the sparse step (`plain.py`). Steps take turns; each time is the shortest of the rounds. Peak memory is that of
a process that does nothing else.
"""

import argparse
import json
import subprocess
import sys

from steps import KINDS, stepper
from timing import in_turns, machine

from thinwire.engine.process_memory import hold_freed_memory, peak_memory
from thinwire.train import TrainConfig
from thinwire.train.presets import tiny

AFTER_ANNEAL = 0.5
"""Part of training that is over when a step is timed."""


def run_of(width: int) -> TrainConfig:
    """The tiny preset at another width."""
    config = tiny()
    return config.replace(model=config.model.replace(d_model=width))


def peak_alone(kind: str, width: int) -> float:
    """Peak resident GB of a process that takes three such steps."""
    done = subprocess.run([sys.executable, __file__, "--alone", kind, str(width)], capture_output=True, check=True)
    return int(done.stdout) / 1e9


def alone(kind: str, width: int) -> None:
    """What the process of `peak_alone` does."""
    hold_freed_memory()  # as training does
    step = stepper(kind, run_of(width), AFTER_ANNEAL)
    for _ in range(3):
        step()
    print(peak_memory())


def measure(width: int, rounds: int) -> dict[str, object]:
    """Tokens per second, peak memory and ratios at one width."""
    config = run_of(width)
    hold_freed_memory()
    seconds = in_turns({kind: stepper(kind, config, AFTER_ANNEAL) for kind in KINDS}, rounds)
    tokens = config.batch_size * config.model.context
    return {
        "width": width,
        "sparse_over_dense": seconds["sparse"] / seconds["dense"],
        "plain_over_sparse": seconds["plain"] / seconds["sparse"],
        "milliseconds": {kind: 1e3 * seconds[kind] for kind in KINDS},
        "tokens_per_second": {kind: tokens / seconds[kind] for kind in KINDS},
        "peak_gb": {kind: peak_alone(kind, width) for kind in KINDS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--alone", nargs=2, metavar=("KIND", "WIDTH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        alone(args.alone[0], int(args.alone[1]))
        return
    print("width  step    tokens/s   ms/step  peak GB")
    rows = []
    for width in args.widths:
        row = measure(width, args.rounds)
        rows.append(row)
        for kind, speed in row["tokens_per_second"].items():
            print(f"{width:<6} {kind:<7} {speed:>8,.0f} {row['milliseconds'][kind]:>9.1f} {row['peak_gb'][kind]:>8.2f}")
        print(
            f"       sparse takes {row['sparse_over_dense']:.2f} times the dense step, "
            f"plain PyTorch {row['plain_over_sparse']:.2f} times ours"
        )
    if args.json:
        print(json.dumps({"widths": rows, "machine": machine()}))


if __name__ == "__main__":
    main()

"""What `thinwire plan` predicts against what training does here: `python benchmarks/plan_check.py [--json]`.

A few real steps of several runs, each in a process of its own: the median time of a step, and the peak resident memory.
Predictions are made from the rates of this machine, the packaged ones or those of `--rates`; a ratio is predicted over
measured. Validation, checkpoints and the corpus have no part in either.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from timing import machine

from thinwire.engine.process_memory import hold_freed_memory, peak_memory
from thinwire.train import TrainConfig
from thinwire.train.plan import plan
from thinwire.train.presets import tiny, tiny_dense
from thinwire.train.rates import find_device, machine_name, processor_model
from thinwire.train.step import new_state, train_step

AFTER_ANNEAL = 0.5
"""Part of training that is over when a step is timed."""
WARMUP = 3
TARGET = 0.25
"""How far a prediction may be off."""


def runs() -> dict[str, TrainConfig]:
    """Runs that differ in what takes their time."""

    def shaped(config: TrainConfig, **model: object) -> TrainConfig:
        return config.replace(model=config.model.replace(**model))

    return {
        "tiny": tiny(),
        "tiny dense": tiny_dense(),
        "tiny fp32": tiny().replace(precision="fp32"),
        "tiny floor, recompute": tiny().replace(floor=1, recompute=True),
        "width 512": shaped(tiny(), d_model=512),
        "width 512, context 256": shaped(tiny(), d_model=512, context=256).replace(batch_size=8),
        "width 512, d_head 64": shaped(tiny(), d_model=512, d_head=64, n_layers=4),
        "width 1024": shaped(tiny(), d_model=1024),
    }


def alone(name: str, steps: int) -> None:
    """Take the steps of one run in this process; prints seconds a step and peak bytes."""
    hold_freed_memory()  # as training does
    config = runs()[name]
    state = new_state(config)
    state.step = int(AFTER_ANNEAL * config.steps)
    generator = torch.Generator().manual_seed(0)
    shape = config.batch_size, config.model.context + 1
    times = []
    for _ in range(WARMUP + steps):
        batch = torch.randint(config.model.vocab_size, shape, generator=generator)
        began = time.perf_counter()
        train_step(state, batch, config)
        times.append(time.perf_counter() - began)
    print(json.dumps({"seconds": statistics.median(times[WARMUP:]), "peak": peak_memory()}))


def check(name: str, steps: int, device: str, rates: Path | None) -> dict[str, object]:
    """One run: predicted and measured tokens per second and peak GB, and their ratios."""
    config = runs()[name]
    predicted = plan(config, *find_device(device, rates))
    command = [sys.executable, __file__, "--alone", name, "--steps", str(steps)]
    measured = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    speed = config.batch_size * config.model.context / measured["seconds"]
    return {
        "run": name,
        "predicted_tokens_per_second": predicted.tokens_per_second,
        "measured_tokens_per_second": speed,
        "speed_ratio": predicted.tokens_per_second / speed,
        "predicted_peak_gb": predicted.memory.total / 1e9,
        "measured_peak_gb": measured["peak"] / 1e9,
        "memory_ratio": predicted.memory.total / measured["peak"],
        "predicted_milliseconds": {part: 1e3 * seconds for part, seconds in predicted.seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    parser.add_argument("--rates", type=Path, help="file of thinwire doctor --measure")
    parser.add_argument("--runs", nargs="+", default=list(runs()), choices=list(runs()), metavar="RUN")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each run")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        alone(args.alone, args.steps)
        return
    device = machine_name(processor_model(), torch.get_num_threads())
    print(f"{'run':<24} tokens/s: predicted  measured  ratio   GB: predicted  measured  ratio")
    rows = []
    for name in args.runs:
        row = check(name, args.steps, device, args.rates)
        rows.append(row)
        print(
            f"{name:<24} {row['predicted_tokens_per_second']:>19,.0f} {row['measured_tokens_per_second']:>9,.0f} "
            f"{row['speed_ratio']:>6.2f} {row['predicted_peak_gb']:>15.2f} {row['measured_peak_gb']:>9.2f} "
            f"{row['memory_ratio']:>6.2f}"
        )
    ratios = [row[kind] for row in rows for kind in ("speed_ratio", "memory_ratio")]
    worst = max(max(ratio, 1 / ratio) for ratio in ratios) - 1  # pyright: ignore
    print(f"largest error {worst:.0%}; the target is {TARGET:.0%}")
    if args.json:
        print(json.dumps({"device": device, "runs": rows, "worst": worst, "machine": machine()}))


if __name__ == "__main__":
    main()

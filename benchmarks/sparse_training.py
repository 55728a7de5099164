"""Training on the engine against the exact recipe: validation loss over wall-clock, per period m of exact steps.

`python benchmarks/sparse_training.py --width 1024 --density 256 --steps 600 [--json]`. All runs are the same but for
this: every step is exact, with a late or an early end of the anneal, or one in m is once annealed, early. Seconds are
those of steps alone: kernels are compiled before, and validation, checkpoints and reading tokens do not count. A run
has reached the loss of an exact run where its validation loss, once annealed and straight between measurements, comes
down to the final one of that run plus 1%; the speedup is the seconds of that run to there over its own.

Finished runs are kept in --work, one JSON file each, and not run again.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from timing import machine

from thinwire.compiled.compile import compile_sparse
from thinwire.config import read_record
from thinwire.data import DataConfig, Tokens, build
from thinwire.engine.process_memory import hold_freed_memory
from thinwire.model import ModelConfig
from thinwire.train import TrainConfig
from thinwire.train.density import is_annealed
from thinwire.train.presets import tiny
from thinwire.train.result import mean_loss
from thinwire.train.sparse_step import computes_sparsely
from thinwire.train.stats import validation_losses
from thinwire.train.step import State, new_state, train_step

SLACK = 1.01
"""How far above an exact run's final validation loss counts as having reached it."""
REFERENCES = ("exact, late", "exact, early")
"""The exact recipe with the anneal of the presets from `small` on, and with that of `tiny`."""


@dataclass(frozen=True)
class Curve:
    """One finished run."""

    config: str
    """The resolved config, as JSON."""
    steps: list[int]
    """Steps after which the validation loss was measured."""
    losses: list[float]
    """Nats per token."""
    seconds: list[float]
    """Of all steps until then."""
    exact_ms: float
    """Median step; of those after the anneal where there are any."""
    sparse_ms: float | None
    """Median step on the support."""

    def seconds_to(self, loss: float) -> float | None:
        """Seconds until the annealed model's validation loss is this; None where it never is."""
        config = TrainConfig.model_validate_json(self.config)
        annealed = [is_annealed(step, config) for step in self.steps]
        for i, found in enumerate(self.losses):
            if found > loss or not annealed[i]:
                continue
            if i == 0 or not annealed[i - 1]:
                return self.seconds[i]
            part = (self.losses[i - 1] - loss) / (self.losses[i - 1] - found)
            return self.seconds[i - 1] + part * (self.seconds[i] - self.seconds[i - 1])
        return None


def runs_of(args: argparse.Namespace, vocab_size: int) -> dict[str, TrainConfig]:
    """The configs to compare, by name."""
    model = ModelConfig(n_layers=args.layers, d_model=args.width, context=args.context, vocab_size=vocab_size)
    early = tiny().replace(
        model=model,
        steps=args.steps,
        batch_size=args.batch,
        density=1 / args.density,
        anneal_stop=args.early,
        learning_rate=args.rate,
        seed=args.seed,
        validation_tokens=args.validation_tokens,
    )
    runs = {REFERENCES[0]: early.replace(anneal_stop=args.late), REFERENCES[1]: early}
    runs |= {f"m = {m}": early.replace(compute="sparse", support_every=m) for m in args.periods}
    return runs if args.only is None else {name: runs[name] for name in args.only}


def warm_up() -> None:
    """Compile every kernel, which depends on no shape."""
    shape = ModelConfig(n_layers=1, d_model=64, context=128, vocab_size=300)
    config = tiny().replace(model=shape, batch_size=2, steps=10, anneal="none", compute="sparse", support_every=100)
    state = new_state(config)
    for _ in range(4):
        train_step(state, torch.zeros(2, 129, dtype=torch.long), config)
    assert state.support is not None
    with torch.no_grad():
        compile_sparse(state.model)(torch.zeros(2, 128, dtype=torch.long))


def run(name: str, config: TrainConfig, tokens: Tokens, every: int) -> Curve:
    """Train one run from its first to its last step, with about one validation loss in `every` steps."""
    state, spent = new_state(config), 0.0
    steps, losses, seconds = [], [], []
    times: dict[str, list[float]] = {"anneal": [], "exact": [], "sparse": []}
    while state.step < config.steps:
        step = state.step
        rows = torch.from_numpy(tokens.batch(step, config.seed, config.batch_size, config.model.context))
        began = time.perf_counter()
        train_step(state, rows, config)
        took = time.perf_counter() - began
        spent += took
        times[kind_of(state, step, config)].append(took)
        if state.step % every == 0 or state.step == config.steps:
            steps.append(state.step)
            losses.append(validation_loss(state, tokens, config))
            seconds.append(spent)
            print(f"{name}: step {state.step}, {spent:.0f} s, validation loss {losses[-1]:.4f}", flush=True)
    exact = times["exact"] or times["anneal"]
    sparse = 1e3 * statistics.median(times["sparse"]) if times["sparse"] else None
    return Curve(config.to_json(), steps, losses, seconds, 1e3 * statistics.median(exact), sparse)


def kind_of(state: State, step: int, config: TrainConfig) -> str:
    """Which kind of step the one just done was: of the anneal, exact after it, or on the support."""
    if computes_sparsely(step, config):  # a step that may have moved the support has dropped what was made of it
        return "exact" if state.support is None else "sparse"
    return "exact" if is_annealed(step, config) else "anneal"


def validation_loss(state: State, tokens: Tokens, config: TrainConfig) -> float:
    """Held-out nats per token, corpus parts weighted as in training."""
    with torch.no_grad():
        return mean_loss(validation_losses(compile_sparse(state.model), tokens, config), tokens)


def compare(curves: dict[str, Curve]) -> dict[str, dict[str, object]]:
    """A row per run: its times and loss, and how much sooner it reaches what the exact runs end with."""
    rows: dict[str, dict[str, object]] = {}
    for name, curve in curves.items():
        row: dict[str, object] = {
            "exact_ms": curve.exact_ms,
            "sparse_ms": curve.sparse_ms,
            "seconds": curve.seconds[-1],
            "val_loss": curve.losses[-1],
        }
        for reference in REFERENCES:
            if reference in curves:
                row[f"speedup_to_{reference.split()[-1]}"] = speedup(curve, curves[reference])
        rows[name] = row
    return rows


def speedup(curve: Curve, reference: Curve) -> float | None:
    """How much sooner than a reference run another reaches the loss that this one ends with; None where never."""
    target = SLACK * reference.losses[-1]
    own, other = curve.seconds_to(target), reference.seconds_to(target)
    assert other is not None
    return None if own is None else other / own


def table(rows: dict[str, dict[str, object]]) -> str:
    """What `compare` found, a line per run."""

    def cell(value: object, digits: int) -> str:
        return f"{value:>9.{digits}f}" if isinstance(value, float) else f"{'-':>9}"

    lines = ["run            exact ms sparse ms   seconds  val loss   to late  to early"]
    for name, row in rows.items():
        digits = {"val_loss": 4, "speedup_to_late": 2, "speedup_to_early": 2}
        lines.append(f"{name:<13}" + " ".join(cell(value, digits.get(key, 0)) for key, value in row.items()))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/sparse_training"))
    parser.add_argument("--tokens", type=Path, help="tokens artefact; by default the demo's corpus is built in WORK")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--density", type=float, default=64, metavar="N", help="one weight in N is not zero")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rate", type=float, default=0.12, help="peak learning rate")
    parser.add_argument("--late", type=float, default=0.5, help="part of training at which a late anneal ends")
    parser.add_argument("--early", type=float, default=0.1, help="the same of an early one")
    parser.add_argument("--periods", type=int, nargs="+", default=[1, 4, 16, 64], metavar="M")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the runs, such as 'exact, early' 'm = 16'")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validations", type=int, default=20, help="validation losses in a run")
    parser.add_argument("--validation-tokens", type=int, default=16_384)
    parser.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    args = parser.parse_args(argv)
    hold_freed_memory()  # as training does
    tokens = Tokens.open(args.tokens) if args.tokens else build(DataConfig(), args.work / "tokens")
    warm_up()
    curves = {}
    for name, config in runs_of(args, tokens.tokenizer.vocab_size).items():
        place = args.work / f"{name.replace(', ', '-').replace(' ', '')}.json"
        kept = read_record(Curve, place, f"{place} is not readable; delete it.") if place.exists() else None
        if kept is None or kept.config != config.to_json():
            kept = run(name, config, tokens, max(1, args.steps // args.validations))
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(asdict(kept)), encoding="utf-8")
        curves[name] = kept
    rows = compare(curves)
    print(table(rows))
    if args.json:
        sparse = [row["speedup_to_late"] for row in rows.values() if row["sparse_ms"] and row.get("speedup_to_late")]
        best = {"train_to_loss_speedup": max(sparse)} if sparse else {}  # type: ignore[type-var]
        print(json.dumps(best | {"runs": rows, "curves": {n: asdict(c) for n, c in curves.items()}, **machine()}))


if __name__ == "__main__":
    main()

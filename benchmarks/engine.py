"""The engine against the dense path: `python benchmarks/engine.py [--json] [--only PART ...] [--out FILE [--docs]]`.

Ratios, of contenders that take turns. The plain path is what the released code computes: fp32 products, `torch.topk`
for AbsTopK, library attention, all positions of every layer. Our own dense path has this package's AbsTopK and
attention, bf16 where the machine computes it natively, and runs the last layer at the last tokens alone. Parts that are
not measured now stay in --out, if they are of the same machine, layers and width. Parts:

* forward: 256 tokens through 8 layers of width 2048 with one weight in 1024, without a tap and with one recorded site
  of the middle layer; the weights' size in memory and on disk
* prune: forward and backward to masks, 8 pairs of 256 tokens, of that model
* shipped: the same for eight trials of 16 pairs of a task, of the model that comes with the package
* circuit: a circuit of 12 nodes against the large model's forward, per prompt
* training: what `benchmarks/sparse_training.py`, which takes half an hour, has measured
"""

import argparse
import json
import re
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from engine_models import mask_step, means_of, random_model, random_pairs, twelve_node_circuit
from engine_page import write_page
from plain import plain_model
from timing import in_turns, machine
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from thinwire.compact import CompactCircuit
from thinwire.compiled.compile import compile_sparse
from thinwire.compiled.edit import sharing
from thinwire.engine.process_memory import hold_freed_memory
from thinwire.model import Transformer
from thinwire.model.precision import autocast
from thinwire.model.taps import record
from thinwire.model.weights import load, save_weights
from thinwire.prune.config import PruneConfig
from thinwire.prune.means import task_means
from thinwire.sites import Site
from thinwire.stages import Opened
from thinwire.tasks import find_task, last_logits

LAYERS, WIDTH, DENSITY, EMBEDDING_DENSITY = 8, 2048, 1 / 1024, 1 / 128
LEAST_A_ROW = 2
"""Nonzeros a row that smaller models have too, so that circuits join."""
TOKENS, PAIRS = 256, 8
SHIPPED = "python-2x256"
TASKS = ("single_double_quote", "bracket_counting")
TRIALS, SHIPPED_PAIRS = 8, 16
TRAINING = Path(__file__).parent.parent / "docs" / "results" / "sparse_training.json"
KEPT_LATE = 0.02
"""Part of the nodes that is left after a few dozen steps of a run of hundreds: see LOG.md."""
RECORDED = "attn.q"
"""Kind of the site that is recorded."""
PROMPTS = 128
"""Prompts that the circuit runs on at once; the dense model takes four of them."""
NEAR = 1e-4
"""Logits nearer than this count as equal."""


def milliseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    """The same in milliseconds, short."""
    return {name: float(f"{1e3 * value:.4g}") for name, value in seconds.items()}


def shares(call: Callable[[], object], most: int = 12) -> dict[str, float]:
    """Part of the time of a call that each operator takes by itself, largest first; the rest as one."""
    call()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()
    own: defaultdict[str, float] = defaultdict(float)
    for event in seen.key_averages():
        own[called(event.key)] += event.self_cpu_time_total
    total = sum(own.values())
    first = sorted(own, key=lambda name: -own[name])[:most]
    rest = total - sum(own[name] for name in first)
    return {name: round(own[name] / total, 4) for name in first} | {"rest": round(rest / total, 4)}


def called(event: str) -> str:
    """The operator that the profiler's event belongs to."""
    return re.sub(r"^(GeneratedBackwardFor_)?(aten::|thinwire::|thinwire_)|(_default)?(Backward0?)?$", "", event)


def nbytes(model: Transformer) -> int:
    """Bytes of everything that a model holds."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


@torch.no_grad()
def forward(dense: Transformer, plain: Transformer, sparse: Transformer, rounds: int) -> dict[str, object]:
    """All logits of one text."""
    tokens = torch.randint(dense.config.vocab_size, (1, TOKENS), generator=torch.Generator().manual_seed(1))

    def ours() -> Tensor:
        with autocast("auto", tokens.device):
            return dense(tokens)

    recorded = Site.of(sparse.config.n_layers // 2, RECORDED)
    seconds = in_turns(
        {
            "plain": lambda: plain(tokens),
            "dense": ours,
            "sparse": lambda: sparse(tokens),
            "record": lambda: sparse(tokens, tap=record([recorded])),
        },
        rounds,
        1,
    )
    apart = (sparse(tokens) - dense(tokens)).abs().amax(-1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_weights(dense, path)
        stored = path.stat().st_size
    return {
        "milliseconds": milliseconds(seconds),
        "forward_speedup": seconds["plain"] / seconds["sparse"],
        "forward_over_dense": seconds["dense"] / seconds["sparse"],
        "recorded_site": str(recorded),
        "record_over_forward": seconds["record"] / seconds["sparse"],
        "memory_ratio": nbytes(sparse) / nbytes(dense),
        "file_ratio": stored / sum(4 * p.numel() for p in dense.parameters()),
        "near": NEAR,
        "tokens_apart": int((apart > NEAR).sum()),
        "largest_difference_elsewhere": apart[apart <= NEAR].max().item(),
        "shares": shares(lambda: sparse(tokens)),
    }


def prune(dense: Transformer, plain: Transformer, sparse: Transformer, rounds: int) -> dict[str, object]:
    """A step of mask training of the large model, with all nodes; and late in a run, with few."""
    pairs = random_pairs(PAIRS, TOKENS, TOKENS)
    with torch.no_grad():
        means = means_of(sparse, pairs)
    config = PruneConfig(calibrated=False)  # the best calibration of random margins ignores them: no gradient
    given = means, pairs, config, 1
    late = mask_step(sparse, *given, whole=False, kept=KEPT_LATE)
    found = compared(
        {
            "plain": mask_step(plain, *given, whole=True),
            "dense": mask_step(dense, *given, whole=False),
            "sparse": mask_step(sparse, *given, whole=False),
            "late": late,
        },
        rounds,
    )
    took = found["milliseconds"]
    return found | {"late_speedup": took["plain"] / took["late"], "kept_late": KEPT_LATE, "late_shares": shares(late)}


def compared(steps: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, Any]:
    """Times of mask steps, their ratios, and the cosine of the gradients of the sparse and our dense one."""
    seconds = in_turns(steps, rounds, 1)
    cosine = torch.cosine_similarity(steps["dense"](), steps["sparse"]()).min().item()
    return {
        "milliseconds": milliseconds(seconds),
        "speedup": seconds["plain"] / seconds["sparse"],
        "over_dense": seconds["dense"] / seconds["sparse"],
        "gradient_cosine": cosine,
        "shares": shares(steps["sparse"]),
    }


def shipped(rounds: int) -> dict[str, object]:
    """A step of mask training of the shipped model on its tasks, eight trials folded."""
    opened, dense = Opened.open(SHIPPED), load(SHIPPED)
    plain = plain_model(load(SHIPPED))
    rows = {}
    for name in TASKS:
        pairs = find_task(name).pairs(SHIPPED_PAIRS, "train", 0, opened.tokenizer, dense.config.context)
        with torch.no_grad():
            means = task_means(dense, pairs)
        rows[name] = compared(
            {
                "plain": mask_step(plain, means, pairs, PruneConfig(), TRIALS, whole=True),
                "dense": mask_step(dense, means, pairs, PruneConfig(), TRIALS, whole=False),
                "sparse": mask_step(opened.model, means, pairs, PruneConfig(), TRIALS, whole=False),
            },
            rounds,
        )
    return {
        "model": SHIPPED,
        "tasks": rows,
        "shipped_prune_speedup": statistics.geometric_mean(row["speedup"] for row in rows.values()),
        "shipped_over_dense": statistics.geometric_mean(row["over_dense"] for row in rows.values()),
    }


@torch.no_grad()
def circuit(dense: Transformer, plain: Transformer, sparse: Transformer, rounds: int) -> dict[str, object]:
    """Prompts of 16 to 25 tokens through a circuit of 12 nodes, and through the large model."""
    pairs = random_pairs(PROMPTS // 2, 16, 25)
    few = pairs.take(torch.arange(2))
    whole = twelve_node_circuit(sparse, pairs)
    compact = CompactCircuit(whole, sparse)
    seconds = in_turns(
        {
            "plain": lambda: plain(few.tokens),
            "sparse": lambda: last_logits(sparse, few),
            "circuit": lambda: compact.margins(pairs),
        },
        rounds,
        1,
    )
    each = {"plain": seconds["plain"] / 4, "sparse": seconds["sparse"] / 4, "circuit": seconds["circuit"] / PROMPTS}
    return {
        "microseconds_a_prompt": {name: float(f"{1e6 * value:.4g}") for name, value in each.items()},
        "circuit_speedup": each["plain"] / each["circuit"],
        "circuit_over_sparse": each["sparse"] / each["circuit"],
        "nodes": len(whole.nodes),
    }


def training() -> dict[str, object]:
    """How much sooner training on the support has the exact recipe's loss, and on what machine that was."""
    found = json.loads(TRAINING.read_text())
    return {key: found[key] for key in ("train_to_loss_speedup", "processor", "threads", "torch")}


PARTS = {"forward": forward, "prune": prune, "circuit": circuit}
"""What is measured of the large model."""
EVERY = [*PARTS, "shipped", "training"]


def show(name: str, found: Mapping[str, object]) -> None:
    """Print what was found, a table of shares last."""
    print(f"\n{name}")
    for key, value in found.items():
        if key == "tasks":
            for task, row in value.items():  # pyright: ignore
                show(f"  {task}", row)
        elif not key.endswith("shares"):
            print(f"  {key}: {value:.4g}" if isinstance(value, float) else f"  {key}: {value}")
    for key in ("shares", "late_shares"):
        for operator, share in (found.get(key) or {}).items():  # pyright: ignore
            print(f"  {share:>6.1%}  {operator}{' (late)' if key == 'late_shares' else ''}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    parser.add_argument("--only", nargs="+", choices=EVERY, default=EVERY)
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of each part")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--threads", type=int, help="threads of torch; by default its own choice")
    parser.add_argument("--out", type=Path, help="write the JSON object here too")
    parser.add_argument("--docs", action="store_true", help="show what --out then holds in docs/engine.md")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    hold_freed_memory()
    setting = {"machine": machine(), "layers": args.layers, "width": args.width}
    found: dict[str, dict] = {}
    if args.out and args.out.exists():
        before = json.loads(args.out.read_text())
        if setting.items() <= before.items():
            found = before["parts"]
    if "shipped" in args.only:
        found["shipped"] = shipped(args.rounds)
        show("shipped", found["shipped"])
    if "training" in args.only:
        found["training"] = training()
        show("training", found["training"])
    if set(args.only) & set(PARTS):
        density = max(DENSITY, LEAST_A_ROW / args.width)
        dense = random_model(args.layers, args.width, density, max(EMBEDDING_DENSITY, density))
        models = dense, plain_model(sharing(dense, {})), compile_sparse(dense)
        for name in (name for name in PARTS if name in args.only):
            with nullcontext() if name == "prune" else torch.no_grad():
                found[name] = PARTS[name](*models, args.rounds)
            show(name, found[name])
    keys = {
        "forward_speedup": ("forward", "forward_speedup"),
        "prune_step_speedup": ("prune", "speedup"),
        "memory_ratio": ("forward", "memory_ratio"),
        "file_ratio": ("forward", "file_ratio"),
        "shipped_prune_speedup": ("shipped", "shipped_prune_speedup"),
        "circuit_speedup": ("circuit", "circuit_speedup"),
        "train_to_loss_speedup": ("training", "train_to_loss_speedup"),
    }
    summary = {key: found[part][name] for key, (part, name) in keys.items() if part in found}
    result = {**summary, **setting, "parts": found}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        if args.docs:
            write_page(result)
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

"""One pruning step of the shipped model, trials folded or one after another: `python benchmarks/prune.py [--json]`.

Eight trials in one forward and backward pass against eight runs of one trial, both through `thinwire.prune.learn`; a
step of the latter is one step of each run. They take turns and see the same pairs; the ratio is the median of the
rounds' ratios, and times are those of the fastest round. Removed nodes are ablated to their means over the task's
prompts, or over the pretraining distribution where its tokens are given. Below: where the time of a step goes.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import torch
from timing import in_turns, machine
from torch import Tensor, nn

from thinwire.data import Tokens
from thinwire.prune import learn
from thinwire.prune.config import PruneConfig
from thinwire.prune.masks import NodeMasks
from thinwire.prune.means import mean_activations, task_means
from thinwire.stages import Opened
from thinwire.tasks import PairBatch, find_task

MODEL = "python-2x256"
TASKS = ("single_double_quote", "class_init")
"""One of middling prompts, 16 tokens on average, and the one of the longest, 25."""
TRIALS = 8
STEPS = 5
"""Timed steps of each run in a round; one more comes before them."""
WARMUP = 1
"""Rounds that do not count."""
TIMED = (
    ("forward", NodeMasks, "margins"),
    ("calibration", learn, "fit_calibration"),
    ("backward", Tensor, "backward"),
    ("clipping", nn.utils, "clip_grad_norm_"),
    ("optimizer", torch.optim.AdamW, "step"),
)
"""Parts of a step, and the functions that they are; the rest is pairs, slopes, losses and bounds."""


class Clock:
    """Seconds of the steps that `learn` reports, and of their parts."""

    def __init__(self) -> None:
        self.rounds: list[float] = []
        """Seconds of each round's timed steps."""
        self.parts: defaultdict[str, float] = defaultdict(float)
        """Seconds of each part in the timed steps of all rounds."""
        self._inside = False
        self._since = 0.0

    def report(self, done: int, total: int, message: str) -> None:
        """What `learn` calls after every step."""
        now = time.perf_counter()
        if self._inside:
            self.rounds[-1] += now - self._since
        self._inside, self._since = done < total, now

    def timed(self, part: str, function: Callable) -> Callable:
        """The function, with its time added to a part's."""

        def call(*args, **kwargs):
            began = time.perf_counter()
            result = function(*args, **kwargs)
            if self._inside:
                self.parts[part] += time.perf_counter() - began
            return result

        return call


def contender(masks: NodeMasks, pairs: PairBatch, trials: int, runs: int, clock: Clock) -> Callable[[], None]:
    """A round of so many runs, one after another, of so many trials each."""
    config = PruneConfig(steps=1 + STEPS, restarts=0)

    def round_() -> None:
        clock.rounds.append(0.0)
        with ExitStack() as stack:
            for part, owner, name in TIMED:
                stack.enter_context(patch.object(owner, name, clock.timed(part, getattr(owner, name))))
            for _ in range(runs):
                learn.learn(masks, pairs, config, [config.point] * trials, seed=0, report=clock.report)

    return round_


def measure(opened: Opened, name: str, rounds: int, tokens: Tokens | None) -> dict[str, object]:
    """Seconds per step of both kinds, their ratio, and the share of each part."""
    config = PruneConfig()
    pairs = find_task(name).pairs(config.train_pairs, "train", 0, opened.tokenizer, opened.model.config.context)
    if tokens is None:
        means = task_means(opened.model, pairs)
    else:
        means = mean_activations(opened.model, tokens, config.mean_tokens)
    masks = NodeMasks(opened.model, means, config)
    clocks = {"folded": Clock(), "serial": Clock()}
    in_turns(
        {
            "folded": contender(masks, pairs, TRIALS, 1, clocks["folded"]),
            "serial": contender(masks, pairs, 1, TRIALS, clocks["serial"]),
        },
        rounds,
        WARMUP,
    )
    took = {kind: clock.rounds[WARMUP:] for kind, clock in clocks.items()}
    ratios = [serial / folded for serial, folded in zip(took["serial"], took["folded"], strict=True)]
    return {
        "task": name,
        "pairs": config.batch_pairs,
        "trials": TRIALS,
        "serial_over_folded": statistics.median(ratios),
        "ratios": ratios,
        "seconds_per_step": {kind: min(seconds) / STEPS for kind, seconds in took.items()},
        "shares": {
            kind: {part: clock.parts[part] / sum(clock.rounds) for part, _, _ in TIMED}
            for kind, clock in clocks.items()
        },
    }


def print_row(row: dict) -> None:
    """The times of one task, and the table of shares."""
    low, high = min(row["ratios"]), max(row["ratios"])
    print(f"{row['task']}: {TRIALS} trials, {row['pairs']} pairs, {torch.get_num_threads()} threads")
    print(f"        ms/step  {'  '.join(part for part, _, _ in TIMED)}  rest")
    for kind, shares in row["shares"].items():
        cells = "  ".join(f"{share:>{len(part)}.0%}" for part, share in shares.items())
        print(f"{kind:<7} {1e3 * row['seconds_per_step'][kind]:>7.1f}  {cells}  {1 - sum(shares.values()):>4.0%}")
    print(f"serial takes {row['serial_over_folded']:.2f} times the folded step ({low:.2f} to {high:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    parser.add_argument("--tasks", nargs="+", default=TASKS, metavar="TASK")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="threads of torch; by default its own choice")
    parser.add_argument("--tokens", type=Path, help="tokens of the pretraining distribution, for the means")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    opened = Opened.open(MODEL)
    tokens = Tokens.open(args.tokens) if args.tokens else None
    if tokens is not None:
        opened.check_tokens(tokens)
    rows = []
    for name in args.tasks:
        rows.append(measure(opened, name, args.rounds, tokens))
        print_row(rows[-1])
    if args.json:
        ratio = statistics.geometric_mean(row["serial_over_folded"] for row in rows)
        print(json.dumps({"serial_over_folded": ratio, "model": MODEL, "tasks": rows, "machine": machine()}))


if __name__ == "__main__":
    main()

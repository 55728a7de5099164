"""thinwire train: train a weight-sparse model, or its dense twin."""

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from thinwire.cli.common import chosen_config, command, emit, number, parse, progress, take_option
from thinwire.cli.main import complain
from thinwire.cli.reuse import OTHER_PLACE, Watched
from thinwire.display import visible
from thinwire.errors import UserError
from thinwire.progress import Note, Pace, Report, duration, silent
from thinwire.train.config import Parallel, TrainConfig
from thinwire.train.presets import PRESETS
from thinwire.train.sinks import SinkName
from thinwire.train.watch import WatchConfig

if TYPE_CHECKING:
    from thinwire.model.counts import WeightCounts
    from thinwire.train.ranks import Ranks
    from thinwire.train.result import TrainResult

LAUNCHER = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables through which the processes of a launcher find each other."""


@dataclass(frozen=True)
class Args:
    """Train a model. The same command resumes an interrupted run and returns a finished one; Ctrl-C saves first.

    report.html in the model's folder shows the finished run; thinwire view on that folder writes it at any time.

    torchrun --nproc-per-node N -m thinwire train ... shares every batch among N processes; any N resumes any run.

    --preset or --config sets the defaults of the other options; options on the command line win.
    """

    tokens: tyro.conf.Positional[Path]
    """Tokens artefact to train on."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the model artefact, such as runs/mine/model."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1. Under torchrun cuda gives every process a GPU of its own."""
    start: Path | None = None
    """Model to begin with, of the same shape; unset begins at random. The sparsifier frozen needs one."""
    teacher: Path | None = None
    """Model for distillation, trained on the same tokens: see --distill-weight."""
    parallel: Parallel = "ddp"
    """Under torchrun: every process holds all weights (ddp), or only its rows of every matrix (fsdp)."""
    watch: WatchConfig = field(default_factory=WatchConfig)
    """What is measured besides the losses."""
    track: tuple[SinkName, ...] = ()
    """Where metrics are logged besides metrics.jsonl: TensorBoard, W&B (pip install 'thinwire[track]')."""
    json: bool = False
    """End stdout with one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb, alone or as one of the processes that torchrun started."""
    if not launched():
        _run(argv)
        return
    from thinwire.train.ranks import joined

    with joined() as ranks:
        try:
            _run(argv, ranks, int(os.environ.get("LOCAL_RANK", "0")))
        except UserError as error:  # the same on every rank
            if ranks.first:
                complain(str(error))
            ranks.wait()  # the launcher ends the others as soon as one process exits
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            if ranks.first:
                raise
            raise SystemExit(1) from None


def launched() -> bool:
    """Whether a launcher such as torchrun started this process as one of several; platforms set WORLD_SIZE without it.

    Raises UserError where the launcher's variables are not numbers.
    """
    size = os.environ.get("WORLD_SIZE", "").strip()
    if not all(os.environ.get(name) for name in LAUNCHER) or size in ("", "0", "1"):
        return False
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT"):
        if not os.environ.get(name, "0").strip().isdecimal():
            raise UserError(f"{name} is '{os.environ[name]}' and has to be a number; unset it, or start with torchrun.")
    return True


def speed(report: Report, tokens: int) -> Report:
    """The same progress with tokens per second; a step is on so many tokens."""
    pace = Pace()

    def timed(done: int, total: int, status: str) -> None:
        pace.add(time.monotonic(), done, total)
        rate = None if pace.rate is None else pace.rate * tokens
        short = "" if rate is None else f", {rate:.0f} tok/s" if rate < 1000 else f", {rate / 1000:,.1f}k tok/s"
        shown = status if isinstance(status, Note) else status + short  # short, for a line of 80 columns
        report(done, total, shown)

    return timed


def summary(result: "TrainResult", counts: "WeightCounts", page: Path | None) -> str:
    """A finished run for reading, and what to run next."""
    losses = [f"{part} {loss:.3f}" for part, loss in result.val_losses.items()]
    of_parts = f" ({', '.join(losses)})" if len(losses) > 1 else ""
    lines = [
        f"model            {result.out}",
        f"validation loss  {result.val_loss:.3f} nats per token{of_parts}",
        f"size             {counts}",
        f"trained on       {result.tokens:,} tokens",
    ]
    if result.seconds is not None and result.tokens_per_second is not None:
        lines[-1] += f" in {duration(result.seconds)}, {number(round(result.tokens_per_second))} tokens/s"
    lines += [f"report           {page}"] if page else []
    after = ("tasks", "score", result.out), ("prune", result.out, "--task", "bracket_counting")
    return "\n".join([*map(visible, lines), "", "Next:", *(command(*words) for words in after)])


def _run(argv: Sequence[str], ranks: "Ranks | None" = None, local_rank: int = 0) -> None:
    rest = list(argv)
    preset = take_option(rest, "--preset")
    default, remaining = chosen_config(TrainConfig, rest, PRESETS[preset or "tiny"]())
    if preset and len(remaining) < len(rest):
        raise UserError("Give either --preset or --config, not both; options on the command line change either.")
    args = parse(Args, remaining, "train", Args(tyro.MISSING, tyro.MISSING, default))
    from thinwire.data import Tokens
    from thinwire.stages import Watching, train_stage
    from thinwire.train.inputs import Sources
    from thinwire.train.ranks import SINGLE

    ranks = ranks or SINGLE
    with ranks.together():
        ranks = ranks.placed(args.parallel, args.device, local_rank)
        tokens = Tokens.open(args.tokens)
    with progress("training") if ranks.first else nullcontext(silent) as report:
        watched = Watched(report, OTHER_PLACE) if ranks.first else Watched(silent)
        result = train_stage(
            args.config,
            tokens,
            args.out,
            speed(watched, args.config.batch_size * args.config.model.context),
            Sources(args.start, args.teacher),
            Watching(args.watch, track=args.track),
            args.device,
            ranks,
        )
    if ranks.first:
        page = args.out / "report.html"
        found = page if page.is_file() else None
        counts = result.weights(args.config.model)
        shown = {"report": None if found is None else str(found), "reused": watched.reused}
        values = asdict(result) | {"weights": str(counts), **asdict(counts)}
        emit(values | shown, args.json, summary(result, counts, found))

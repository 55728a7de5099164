"""thinwire train: train a weight-sparse model, or its dense twin."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from thinwire.cli.common import chosen_config, emit, parse, progress, take_option
from thinwire.cli.main import complain
from thinwire.errors import UserError
from thinwire.progress import silent
from thinwire.train.config import Parallel, TrainConfig
from thinwire.train.presets import PRESETS
from thinwire.train.sinks import SinkName
from thinwire.train.watch import WatchConfig

if TYPE_CHECKING:
    from thinwire.train.ranks import Ranks


@dataclass(frozen=True)
class Args:
    """Train a model. The same command resumes an interrupted run and returns a finished one; Ctrl-C saves first.

    report.html in the model's folder shows the finished run; thinwire view on that folder writes it at any time.

    torchrun --nproc-per-node N -m thinwire train ... shares every batch among N processes; any N resumes any run.

    --preset tiny|tiny_dense|shipped|small|paper or --config FILE sets the defaults of the options below (tiny unless
    given); options on the command line win.
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
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
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
        result = train_stage(
            args.config,
            tokens,
            args.out,
            report,
            Sources(args.start, args.teacher),
            Watching(args.watch, track=args.track),
            args.device,
            ranks,
        )
    if ranks.first:
        page = args.out / "report.html"
        counts = result.weights(args.config.model)
        values = asdict(result) | {"weights": str(counts), **asdict(counts)}
        emit(values | {"report": str(page) if page.is_file() else None}, args.json)

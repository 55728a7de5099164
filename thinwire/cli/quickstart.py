"""thinwire quickstart: every stage once, from Python source to checked circuits on a page."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table

from thinwire import artifact, shipped
from thinwire.cli.common import emit, parse, progress
from thinwire.data.config import DataConfig
from thinwire.errors import UserError
from thinwire.prune.config import PruneConfig
from thinwire.train.config import TrainConfig
from thinwire.train.presets import PRESETS
from thinwire.verify.config import VerifyConfig

if TYPE_CHECKING:
    from thinwire.circuit import Circuit
    from thinwire.data import Tokens
    from thinwire.stages import Workspace
    from thinwire.train.loop import TrainResult
    from thinwire.verify import Verdict

DEFAULT_MODEL = "python-2x256"
"""The shipped model that quickstart uses unless it trains one."""
TASKS = ("single_double_quote", "bracket_counting", "set_or_string")


@dataclass(frozen=True)
class Args:
    """Use the shipped weight-sparse model, or train a small one; prune three tasks, check the circuits, write a page.

    Finished stages are reused. Interrupted stages resume.
    """

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("runs/quickstart")
    """Folder of the run."""
    train: bool = False
    """Train a small model from scratch, in a few minutes, instead of using the shipped one."""
    steps: int | None = None
    """With --train: training steps; unset uses the preset's. Fewer steps are quicker and give a worse model."""
    seed: int = 0
    """Seed of the masks, and with --train of the weights and the data order."""
    json: bool = False
    """End stdout with one JSON object."""


@dataclass(frozen=True)
class Outcome:
    """The result for one task: a circuit with its verdict, or the reason why there is none."""

    task: str
    circuit: "Circuit | None" = None
    verdict: "Verdict | None" = None
    refused: str = ""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "quickstart")
    if args.steps is not None and not args.train:
        raise UserError("--steps is for training; give --train with it, or leave it out.")
    from thinwire.stages import Opened, Workspace, view_stage
    from thinwire.train.result import read_result

    began = time.perf_counter()
    work = Workspace(args.out)
    artifact.check_file_place(work.page)
    for task in TASKS:
        artifact.refuse_foreign(work.circuit(task), "circuit")
        artifact.refuse_foreign(work.verdict(task), "verdict")
    tokens = trained_here(args, work) if args.train else taken(work)
    opened, trained = Opened.open(work.model), read_result(work.model)
    outcomes = [outcome(opened, tokens, task, work, args.seed) for task in TASKS]
    cases = [(found.circuit, found.verdict) for found in outcomes if found.circuit and found.verdict]
    with progress("5/5 page") as report:
        view_stage(opened, tokens, cases, work.page, report=report)
    seconds = time.perf_counter() - began
    model = None if args.train else DEFAULT_MODEL
    emit(summary(model, trained, outcomes, work, seconds), args.json, table(model, trained, outcomes))
    if not args.json:
        emit({}, False, advice(outcomes, work, seconds))


def taken(work: "Workspace") -> "Tokens":
    """Copy the shipped model into the workspace; returns tokens of its tokenizer."""
    from thinwire.data import build

    if DEFAULT_MODEL not in shipped.names():
        raise UserError(f"This installation lacks the shipped model {DEFAULT_MODEL}; give --train to train one here.")
    with progress("1/5 model") as report:
        # before the tokens are built: a workspace of another model is refused while its tokens are still intact
        work.adopt(artifact.open_artifact(shipped.root() / DEFAULT_MODEL, "model"))
        report(1, 1, f"{DEFAULT_MODEL}, shipped")
    with progress("2/5 tokens") as report:
        return build(DataConfig(tokenizer=work.model), work.tokens, report)


def trained_here(args: Args, work: "Workspace") -> "Tokens":
    """Train a model in the workspace; returns the tokens it was trained on."""
    from thinwire.data import build
    from thinwire.stages import train_stage

    config = training(args)
    if artifact.is_finished(work.model):  # before the tokens are built, so that those of another model stay intact
        found = artifact.open_artifact(work.model, "model")
        if found.config(TrainConfig) != config:
            raise UserError(f"{work.model} holds a model trained with another config; choose another --out.")
    with progress("1/5 tokens") as report:
        tokens = build(DataConfig(), work.tokens, report)
    with progress("2/5 training") as report:
        train_stage(config, tokens, work.model, report)
    return tokens


def training(args: Args) -> TrainConfig:
    """The preset, as the arguments change it."""
    config = PRESETS["tiny"]().replace(seed=args.seed)
    return config if args.steps is None else config.replace(steps=args.steps)


def outcome(opened, tokens, task: str, work: "Workspace", seed: int) -> Outcome:
    """Prune and check one task; a task that the model cannot do is skipped with the reason."""
    from thinwire.prune.run import TargetMissed
    from thinwire.stages import prune_stage, verify_stage
    from thinwire.tasks import find_task

    try:
        with progress(f"3/5 prune {task}") as report:
            circuit = prune_stage(opened, tokens, find_task(task), PruneConfig(seed=seed), work.circuit(task), report)
    except TargetMissed as missed:
        return Outcome(task, refused=str(missed))
    with progress(f"4/5 check {task}") as report:
        verdict = verify_stage(opened, circuit, VerifyConfig(), work.verdict(task), report)
    return Outcome(task, circuit, verdict)


def summary(
    model: str | None, trained: "TrainResult", outcomes: list[Outcome], work: "Workspace", seconds: float
) -> dict:
    """The run as one JSON object; `model` names the shipped model, or is null when one was trained."""
    from thinwire.cli.prune import summary as of_circuit
    from thinwire.cli.verify import rows
    from thinwire.cli.verify import summary as of_verdict

    tasks = []
    for found in outcomes:
        row: dict[str, object] = {"task": found.task, "refused": found.refused or None}
        if found.circuit and found.verdict:
            row |= of_circuit(found.circuit, work.circuit(found.task)) | of_verdict(found.verdict) | rows(found.verdict)
        tasks.append(row)
    return {
        "out": str(work.root),
        "model": model,
        "page": str(work.page),
        "val_loss": trained.val_loss,
        "val_losses": trained.val_losses,
        "nonzeros": trained.nonzeros,
        "entries": trained.entries,
        "tokens_per_second": trained.tokens_per_second,
        "training_seconds": trained.seconds,
        "tasks": tasks,
        "seconds": seconds,
    }


def table(model: str | None, trained: "TrainResult", outcomes: list[Outcome]) -> Table:
    """The run for reading."""
    size = f"{trained.nonzeros:,} of {trained.entries:,} weights"
    title = f"{model or 'trained here'}: {size}, validation loss {trained.val_loss:.3f} nats"
    slim = {"box": SIMPLE_HEAD, "pad_edge": False, "padding": 0}  # fits into 80 columns
    grid = Table(title=title, title_justify="left", caption_justify="left", **slim)
    grid.caption = "losses in nats on held-out pairs; a loss of 0.69 is no better than guessing"
    grid.add_column("task", no_wrap=True)
    columns = list(dict.fromkeys(name for found in outcomes if found.verdict for name in found.verdict.headlines))
    for name in ("nodes", "edges", *columns):
        grid.add_column(name.replace(" ", "\n"), justify="right")
    for found in outcomes:
        if found.verdict is None:
            grid.add_row(found.task, *["-"] * (2 + len(columns)))
            continue
        sizes, shown = (str(found.verdict.nodes), str(found.verdict.edges)), found.verdict.headlines
        grid.add_row(found.task, *sizes, *(shown[name].number if name in shown else "-" for name in columns))
    return grid


def advice(outcomes: list[Outcome], work: "Workspace", seconds: float) -> str:
    """Why tasks have no circuit, and where to look next."""
    refused = [found.refused for found in outcomes if found.refused]
    looks = [f"  thinwire view {work.circuit(found.task)} --text" for found in outcomes if found.circuit][-1:]
    looks += [f"  thinwire tasks score {work.model}", f"  thinwire info {work.model}"]
    opened = f"{seconds / 60:.1f} minutes. Open {work.page} in a browser, or look closer with"
    return "\n".join(["", *refused, opened, *looks])

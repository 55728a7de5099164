"""thinwire quickstart: every stage once, from Python source to checked circuits on a page."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table

from thinwire import artifact, shipped
from thinwire.cli.bars import Phases
from thinwire.cli.common import command, emit, parse
from thinwire.cli.reuse import OTHER_PLACE, Watched
from thinwire.data.config import DataConfig
from thinwire.display import visible
from thinwire.errors import UserError
from thinwire.progress import Reused, duration
from thinwire.prune.config import PruneConfig
from thinwire.train.config import TrainConfig
from thinwire.train.presets import PRESETS
from thinwire.verify.config import VerifyConfig

if TYPE_CHECKING:
    from thinwire.circuit import Circuit
    from thinwire.data import Tokens
    from thinwire.model.counts import WeightCounts
    from thinwire.stages import Workspace
    from thinwire.train.loop import TrainResult
    from thinwire.verify import Verdict

DEFAULT_MODEL = "python-2x256"
"""The shipped model that quickstart uses unless it trains one."""
TASKS = ("single_double_quote", "bracket_counting", "set_or_string")
SECONDS = {"model": 1.0, "tokens": 15.0, "training": 400.0, "prune": 40.0, "check": 12.0, "page": 3.0}
"""What a phase takes on two cores; after the first phases only the ratios count."""
NARROWEST = 13
"""Columns of a task with a shorter name; words are wrapped to those of its name, so that three fit into 80."""


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
    work, reused = Workspace(args.out), list[Path]()
    artifact.check_file_place(work.page, "an HTML file")
    for task in TASKS:
        artifact.refuse_foreign(work.circuit(task), "circuit")
        artifact.refuse_foreign(work.verdict(task), "verdict")
    first = ("tokens", "training") if args.train else ("model", "tokens")
    phases = Phases((*first, *("prune", "check") * len(TASKS), "page"), SECONDS)
    making = Making(work, phases, reused)
    tokens = trained_here(args, making) if args.train else taken(making)
    opened, trained = Opened.open(work.model), read_result(work.model)
    outcomes = [outcome(opened, tokens, task, making, args.seed) for task in TASKS]
    cases = [(found.circuit, found.verdict) for found in outcomes if found.circuit and found.verdict]
    with phases() as report:
        view_stage(opened, tokens, cases, work.page, report=report)
    seconds = time.perf_counter() - began
    model = None if args.train else DEFAULT_MODEL
    counts = trained.weights(opened.model.config)
    values = summary(model, trained, counts, outcomes, work, seconds)
    values |= {"reused": bool(reused), "reused_folders": [str(folder) for folder in reused]}
    emit(values, args.json, table(model, trained, counts, outcomes))
    if not args.json:
        emit({}, False, advice(outcomes, work, seconds))


@dataclass(frozen=True)
class Making:
    """Where the artefacts go, and the progress of the phases that make them."""

    work: "Workspace"
    phases: Phases
    reused: list[Path]
    """Folders whose finished work was taken."""

    @contextmanager
    def phase(self, subject: str = "") -> Iterator[Watched]:
        """The next phase; finished work that it takes is said and noted."""
        with self.phases(subject) as report:
            try:
                yield Watched(report, OTHER_PLACE, self.reused)
            except artifact.Occupied as found:
                raise artifact.Occupied(found.folder, found.different, "delete that folder") from None


def taken(making: Making) -> "Tokens":
    """Copy the shipped model into the workspace; returns tokens of its tokenizer."""
    from thinwire.data import build

    if DEFAULT_MODEL not in shipped.names():
        raise UserError(f"This installation lacks the shipped model {DEFAULT_MODEL}; give --train to train one here.")
    work = making.work
    with making.phase() as report:
        # before the tokens are built: a workspace of another model is refused while its tokens are still intact
        work.adopt(artifact.open_artifact(shipped.root() / DEFAULT_MODEL, "model"))
        report(1, 1, f"{DEFAULT_MODEL}, shipped")
    with making.phase() as report:
        return build(DataConfig(tokenizer=work.model), work.tokens, report)


def trained_here(args: Args, making: Making) -> "Tokens":
    """Train a model in the workspace; returns the tokens it was trained on."""
    from thinwire.cli.train import speed
    from thinwire.data import Tokens, build
    from thinwire.stages import train_stage

    work, config, tokens = making.work, training(args), None
    if artifact.is_finished(work.model):  # before the tokens are built, so that those of another model stay intact
        found = artifact.open_artifact(work.model, "model")
        if found.config(TrainConfig) != config:
            raise UserError(f"{work.model} holds a model trained with another config; choose another --out.")
        own = found.meta.parents.get("tokens")  # they stay, whatever standard library this interpreter has
        tokens = artifact.finished(work.tokens, Tokens.open, lambda tokens: ["tokens"] * (tokens.artifact.id != own))
    with making.phase() as report:
        if tokens is None:
            tokens = build(DataConfig(), work.tokens, report)
        else:
            report(1, 1, Reused(work.tokens))
    with making.phase() as report:
        train_stage(config, tokens, work.model, speed(report, config.batch_size * config.model.context))
    return tokens


def training(args: Args) -> TrainConfig:
    """The preset, as the arguments change it."""
    config = PRESETS["tiny"]().replace(seed=args.seed)
    return config if args.steps is None else config.replace(steps=args.steps)


def outcome(opened, tokens, task: str, making: Making, seed: int) -> Outcome:
    """Prune and check one task; a task that the model cannot do is skipped with the reason."""
    from thinwire.prune.reach import TargetMissed
    from thinwire.stages import Also, prune_stage, verify_stage
    from thinwire.tasks import find_task

    try:
        with making.phase(task) as report:
            circuit = prune_stage(
                opened, tokens, find_task(task), PruneConfig(seed=seed), making.work.circuit(task), report
            )
    except TargetMissed as missed:
        making.phases.skip()
        return Outcome(task, refused=str(missed))
    with making.phase(task) as report:
        verdict = verify_stage(opened, circuit, VerifyConfig(), making.work.verdict(task), report, also=Also(tokens))
    return Outcome(task, circuit, verdict)


def summary(
    model: str | None,
    trained: "TrainResult",
    counts: "WeightCounts",
    outcomes: list[Outcome],
    work: "Workspace",
    seconds: float,
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
        "weights": str(counts),
        **asdict(counts),
        "tokens_per_second": trained.tokens_per_second,
        "training_seconds": trained.seconds,
        "tasks": tasks,
        "seconds": seconds,
    }


def table(model: str | None, trained: "TrainResult", counts: "WeightCounts", outcomes: list[Outcome]) -> Table:
    """The run for reading: a column for each task, a row for each number."""
    title = f"{model or 'trained here'}: validation loss {trained.val_loss:.3f} nats; {counts}"
    from thinwire.cli.verdicts import in_brief

    slim = {"box": SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}  # fits into 80 columns
    grid = Table(title=title, title_justify="left", caption_justify="left", **slim)
    grid.caption = "losses in nats on held-out pairs; a loss of 0.69 is no better than guessing"
    grid.add_column("", no_wrap=True)
    for found in outcomes:
        grid.add_column(found.task, justify="right", max_width=max(len(found.task), NARROWEST))
    verdicts = [found.verdict for found in outcomes]
    briefs = [in_brief(one) if one else {} for one in verdicts]
    grid.add_row("verdict", *[str(one.get("word") or "-") for one in briefs])
    grid.add_row("nodes", *["-" if one is None else str(one.nodes) for one in verdicts])
    grid.add_row("edges", *["-" if one is None else str(one.edges) for one in verdicts])
    shown = [one.headlines if one else {} for one in verdicts]
    for name in dict.fromkeys(name for values in shown for name in values):
        grid.add_row(name, *[values[name].number if name in values else "-" for values in shown])
    grid.add_row("weakest", *[str(one.get("weakest") or "-") for one in briefs])
    return grid


def advice(outcomes: list[Outcome], work: "Workspace", seconds: float) -> str:
    """Why tasks have no circuit, and where to look next."""
    refused = [found.refused for found in outcomes if found.refused]
    looks = [command("view", work.circuit(found.task), "--text") for found in outcomes if found.circuit][-1:]
    looks += [command("tasks", "score", work.model), command("info", work.root)]
    opened = f"Done in {duration(seconds)}. Open {work.page} in a browser, or look closer with"
    return "\n".join([*map(visible, ["", *refused, opened]), *looks])

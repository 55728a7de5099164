"""thinwire tasks list|show|score: the tasks, example pairs, and how well a model does them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from thinwire.cli.common import emit, parse
from thinwire.errors import UserError

SPLITS = ("train", "validation", "heldout")


@dataclass(frozen=True)
class ListArgs:
    """List the tasks."""

    json: bool = False
    """End stdout with one JSON object."""


@dataclass(frozen=True)
class ShowArgs:
    """Show example pairs of a task: two prompts that differ only in what decides the answer."""

    task: tyro.conf.Positional[str]
    """Name of the task."""
    split: Literal["train", "validation", "heldout"] = "train"
    """Which names and templates the pairs are made of."""
    n: int = 3
    """Number of pairs."""
    seed: int = 0
    """Seed of the pairs."""
    json: bool = False
    """End stdout with one JSON object."""


@dataclass(frozen=True)
class ScoreArgs:
    """Score a model, unpruned, on tasks: loss in nats (guessing is 0.69) and accuracy, per split."""

    model: tyro.conf.Positional[Path]
    """Model artefact, or the name of a shipped model."""
    task: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-t"])] = ()
    """Tasks to score; none names all."""
    pairs: int = 256
    """Pairs per task and split."""
    seed: int = 0
    """Seed of the pairs."""
    json: bool = False
    """End stdout with one JSON object."""


ACTIONS = {"list": ListArgs, "show": ShowArgs, "score": ScoreArgs}


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    if not argv or argv[0] in ("-h", "--help"):
        usage = "usage: thinwire tasks list|show|score [OPTIONS]\n\n"
        emit({}, False, usage + "\n".join(f"  {name:<6} {cls.__doc__}" for name, cls in ACTIONS.items()))
        return
    if argv[0] not in ACTIONS:
        raise UserError(f"There is no 'tasks {argv[0]}'; use one of {', '.join(ACTIONS)}.")
    args = parse(ACTIONS[argv[0]], argv[1:], f"tasks {argv[0]}")
    if isinstance(args, ShowArgs):
        show(args)
    elif isinstance(args, ScoreArgs):
        score(args)
    elif isinstance(args, ListArgs):
        list_tasks(args)


def list_tasks(args: ListArgs) -> None:
    """Names and summaries of the registered tasks."""
    from thinwire.tasks import TASKS

    rows = [{"task": name, "split": split, "loss": None, "accuracy": None} for name in TASKS for split in SPLITS]
    table = Table("task", "choice")
    for name in TASKS:
        table.add_row(name, TASKS[name].summary)
    emit({"tasks": rows, "summaries": {name: TASKS[name].summary for name in TASKS}}, args.json, table)


def show(args: ShowArgs) -> None:
    """Example pairs; what differs between the two sides is marked."""
    from thinwire.tasks import TASKS

    pairs = TASKS[args.task].text_pairs(args.n, args.split, args.seed)
    if args.json:
        emit({"task": args.task, "split": args.split, "pairs": [asdict(pair) for pair in pairs]}, True)
        return
    console = Console(highlight=False)
    for number, pair in enumerate(pairs, start=1):
        console.print(Text(f"pair {number}", style="bold"))
        for side in (0, 1):
            shown = marked(pair.prompts[side], pair.prompts[1 - side], pair.answers[side])
            console.print(shown, soft_wrap=True)


def marked(prompt: str, other: str, answer: str) -> Text:
    """A prompt with what differs from the other one coloured, and its answer."""
    start = next(
        (i for i, (a, b) in enumerate(zip(prompt, other, strict=False)) if a != b), min(len(prompt), len(other))
    )
    end = 0
    while end < min(len(prompt), len(other)) - start and prompt[-1 - end] == other[-1 - end]:
        end += 1
    stop = len(prompt) - end
    text = Text(prompt[:start]).append(prompt[start:stop], style="bold orange3").append(prompt[stop:])
    text.append("  → ", style="dim").append(json.dumps(answer), style="bold blue")
    return Text("\n").join(Text("  ").append(line) for line in text.split("\n", allow_blank=True)).append("\n")


def score(args: ScoreArgs) -> None:
    """Loss and accuracy of the unpruned model."""
    from thinwire.stages import Opened
    from thinwire.tasks import TASKS

    opened = Opened.open(args.model)
    scores = [
        TASKS[name].score(opened.model, opened.tokenizer, split, args.pairs, args.seed)
        for name in (args.task or TASKS)
        for split in SPLITS
    ]
    table = Table("task", "split")
    table.add_column("loss", justify="right")
    table.add_column("accuracy", justify="right")
    for row in scores:
        table.add_row(row.task, row.split, f"{row.loss:.3f}", f"{row.accuracy:.3f}")
    emit({"out": str(args.model), "tasks": [asdict(row) for row in scores]}, args.json, table)

"""thinwire tasks list|show|score: the tasks, example pairs, and the scores of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.table import Table

from thinwire.cli.common import emit, parse, progress
from thinwire.cli.score_table import Row, remarks, score_table
from thinwire.cli.show_pairs import ShowArgs, show
from thinwire.errors import UserError

if TYPE_CHECKING:
    from thinwire.stages import Opened
    from thinwire.tasks import Task

SPLITS = ("train", "validation", "heldout")


@dataclass(frozen=True)
class ListArgs:
    """List the tasks."""

    json: bool = False
    """End stdout with one JSON object."""


@dataclass(frozen=True)
class ScoreArgs:
    """Score a whole model on tasks: loss in nats (0.69 is guessing) and accuracy, per split."""

    model: tyro.conf.Positional[Path]
    """Model artefact, or the name of a shipped model."""
    task: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-t"])] = ()
    """Tasks to score; unset scores all, or the one of --task-file."""
    task_file: Path | None = None
    """JSON Lines file of pairs: a task of your own, named after the file."""
    perturbed: tuple[str, ...] = ()
    """Score prompts changed by these perturbations, or by `all`, after the prompts as they are."""
    strength: float | None = None
    """How much they are changed, such as the number of elements of a longer list; unset takes the usual strengths."""
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
    """Print names and summaries of the registered tasks, and what controls and perturbations they have."""
    from thinwire.tasks import CONTROLS, TASKS

    rows = [{"task": name, "split": split, "loss": None, "accuracy": None} for name in TASKS for split in SPLITS]
    perturbed = {name: {kind: one.summary for kind, one in TASKS[name].perturbations.items()} for name in TASKS}
    kinds = sorted({kind for found in perturbed.values() for kind in found})
    table = Table(
        caption=f"Perturbed prompts, with --perturbed: {', '.join(kinds)}.\n"
        f"Controls with other answers: {', '.join(f'NAME.{kind}' for kind in CONTROLS)}."
    )
    table.caption_style, table.caption_justify = "", "left"
    table.add_column("task", no_wrap=True)
    table.add_column("choice")
    for name in TASKS:
        table.add_row(name, TASKS[name].summary)
    summaries = {name: TASKS[name].summary for name in TASKS}
    controls = {kind: CONTROLS[kind].summary for kind in CONTROLS}
    values = {"tasks": rows, "summaries": summaries, "controls": controls, "perturbations": perturbed}
    emit(values, args.json, table)


def score(args: ScoreArgs) -> None:
    """Print loss and accuracy of the whole model."""
    from thinwire.stages import Opened
    from thinwire.tasks import find_tasks, task_from_file

    own = None if args.task_file is None else task_from_file(args.task_file)
    tasks = [one for task in find_tasks(args.task, own) for one in changed(task, args.perturbed, args.strength)]
    opened = Opened.open(args.model)
    rows: list[Row] = []
    with progress("tasks score") as report:
        for done, task in enumerate(tasks):
            report(done, len(tasks), task.name)
            rows += _scores(opened, task, args, skip=not args.task and own is None)
        report(len(tasks), len(tasks), "done")
    emit({"out": str(args.model), "tasks": [row.as_json() for row in rows]}, args.json, score_table(rows))
    if not args.json:
        emit({}, False, remarks(rows))


def changed(task: "Task", names: Sequence[str], strength: float | None) -> list["Task"]:
    """A task, and the task with its prompts changed by each of some perturbations.

    Raises UserError for a perturbation that the task does not have, and for a strength without one.
    """
    if strength is not None and not names:
        raise UserError("A strength belongs to a perturbation; name one with --perturbed.")
    found = list(task.perturbations) if "all" in names else names
    return [task, *(task.perturbed(name, strength) for name in found)]


def _scores(opened: "Opened", task: "Task", args: ScoreArgs, skip: bool) -> list["Row"]:
    """One row per split; without a score where the tokenizer cannot express the task and it may be skipped."""
    from thinwire.tasks import CannotExpress

    rows: list[Row] = []
    for split in SPLITS:
        try:
            score = task.score(opened.model, opened.tokenizer, split, args.pairs, args.seed)
        except CannotExpress:
            if not skip:
                raise
            score = None
        rows.append(Row(task.name, split, score))
    return rows

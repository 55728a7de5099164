"""The arguments of thinwire prune, and the tasks that they name."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from thinwire.errors import UserError
from thinwire.prune.config import PruneConfig

if TYPE_CHECKING:
    from thinwire.tasks import Task


@dataclass(frozen=True)
class Args:
    """Find the smallest circuit of a task. A finished circuit of the same config, model and tokens is reused.

    --tasks, several models, --workers or --ray make a table: one job for every model and task, run by processes on this
    machine or on a Ray cluster. After an interruption, the same command runs only the jobs that are left.

    --config FILE takes the options below from a JSON file; options on the command line win.
    """

    models: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="MODEL...")]
    """Model artefacts, or names of shipped models."""
    config: Annotated[PruneConfig, tyro.conf.arg(name="")]
    task: Annotated[str | None, tyro.conf.arg(aliases=["-t"])] = None
    """Name of the task; `thinwire tasks list` prints the names. Unset takes the task of --task-file."""
    tasks: tuple[str, ...] = ()
    """Names of several tasks, or all."""
    task_file: Path | None = None
    """JSON Lines file of pairs: a task of your own, named after the file."""
    tokens: Path | None = None
    """Tokens of the models' tokenizer; unset takes `tokens` beside each model, or in `runs/NAME` for a shipped one."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder of the circuit artefact; for a table, the folder that gets `MODEL/TASK`. Unset writes `circuits/TASK`
    beside the model, or in `runs/NAME` for a shipped one."""
    workers: int | None = None
    """Number of jobs that run at a time, each in a process with its share of the cores. Unset runs one job at a time,
    or all of them on a cluster."""
    ray: str | None = None
    """Address of a Ray cluster that runs the jobs; its machines must see the same files. `local` starts one here."""
    plot: Path | None = None
    """SVG, PNG or PDF file for a plot of loss against size, one line per model, from a table's circuits and their
    --ladder."""
    force: bool = False
    """Prune again, and replace a finished circuit, whatever its options."""
    json: bool = False
    """End stdout with one JSON object."""

    @property
    def many(self) -> bool:
        """Whether these arguments make a table of jobs rather than one circuit."""
        return (
            bool(self.tasks)
            or len(self.models) > 1
            or self.workers is not None
            or self.ray is not None
            or self.plot is not None
        )


def chosen_tasks(args: Args) -> list["Task"]:
    """The tasks that the arguments name, each once. Raises UserError for unknown ones, and when there is none."""
    from thinwire.tasks import TASKS, find_tasks, task_from_file

    own = None if args.task_file is None else task_from_file(args.task_file)
    if args.task and args.tasks:
        raise UserError("Give either --task or --tasks, not both.")
    if not (args.task or args.tasks or own):
        raise UserError("Name a task with --task, or give --tasks all; `thinwire tasks list` has the names.")
    every = [*TASKS, *([own.name] if own is not None else [])]
    listed = [name for word in args.tasks for name in (every if word == "all" else [word])]
    names = [args.task] if args.task else listed
    return find_tasks(list(dict.fromkeys(names)), own)

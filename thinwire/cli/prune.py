"""thinwire prune: find the smallest circuit of a task in a model, or of many tasks in many models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from thinwire.cli.common import chosen_config, emit, number, parse, plain, progress
from thinwire.errors import UserError
from thinwire.prune.config import PruneConfig

if TYPE_CHECKING:
    from rich.table import Table

    from thinwire.circuit import Circuit
    from thinwire.prune.trial import Trial
    from thinwire.tasks import Task


@dataclass(frozen=True)
class Args:
    """Find the smallest circuit of a task. A finished circuit of the same config and model is reused.

    --tasks, several models, --workers or --ray make a table: a job for every model and task, done by processes of this
    machine or of a Ray cluster. The same command goes on with what an interrupted one has left to do.

    --config FILE takes the options below from a JSON file; options on the command line win.
    """

    models: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="MODEL...")]
    """Model artefacts, or names of shipped models."""
    config: Annotated[PruneConfig, tyro.conf.arg(name="")]
    task: Annotated[str | None, tyro.conf.arg(aliases=["-t"])] = None
    """Name of the task; `thinwire tasks list` has them. Unset takes the one of --task-file."""
    tasks: tuple[str, ...] = ()
    """Names of many tasks, or all."""
    task_file: Path | None = None
    """JSON Lines file of pairs, a task of one's own called by the file's stem."""
    tokens: Path | None = None
    """Tokens of the models' tokenizer; unset looks for `tokens` beside each model, or in `runs/NAME` if shipped."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder of the circuit artefact, or for a table the folder that gets `MODEL/TASK`; unset writes `circuits/TASK`
    beside the model, or in `runs/NAME`."""
    workers: int | None = None
    """How many jobs run at a time, each in a process with its share of the cores; unset is one, on a cluster all."""
    ray: str | None = None
    """Address of a Ray cluster that does the jobs, all of whose machines see the same files; local starts one here."""
    plot: Path | None = None
    """SVG that a table's circuits and their --ladder are drawn to: loss against size, a line a model."""
    force: bool = False
    """Prune again even if a finished circuit is there."""
    json: bool = False
    """End stdout with one JSON object."""

    @property
    def many(self) -> bool:
        """Whether this asks for a table of jobs rather than for one circuit."""
        return (
            bool(self.tasks)
            or len(self.models) > 1
            or self.workers is not None
            or self.ray is not None
            or self.plot is not None
        )


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    default, rest = chosen_config(PruneConfig, argv, PruneConfig())
    args = parse(Args, rest, "prune", Args(tyro.MISSING, default))
    if not args.models:
        raise UserError("Give the folder of a model, or the name of a shipped one; see thinwire prune --help.")
    tasks = chosen_tasks(args)  # refused before a model is read
    if args.many:
        from thinwire.cli.fanout import prune_many

        prune_many(args, tasks)
    else:
        prune_one(args, args.models[0], tasks[0])


def chosen_tasks(args: Args) -> list["Task"]:
    """The tasks that are asked for, each once. Raises UserError for unknown ones, and when there is none."""
    from thinwire.tasks import TASKS, find_tasks, task_from_file

    own = None if args.task_file is None else task_from_file(args.task_file)
    if args.task and args.tasks:
        raise UserError("Give either --task or --tasks, not both.")
    if not (args.task or args.tasks or own):
        raise UserError("Name a task with --task, or give --tasks all; `thinwire tasks list` has the names.")
    every = [*TASKS, *([own.name] if own is not None else [])]
    asked = [args.task] if args.task else [name for word in args.tasks for name in (every if word == "all" else [word])]
    return find_tasks(list(dict.fromkeys(asked)), own)


def prune_one(args: Args, model: Path, task: "Task") -> None:
    """Prune one task in this process."""
    from thinwire.prune.trial import pareto
    from thinwire.prune.tune import finished_trials, search_folder
    from thinwire.stages import Opened, Workspace, prune_stage

    work = Workspace.of_model(model)
    opened = Opened.open(model)
    tokens = work.open_tokens(args.tokens, model)
    if args.out is None:
        work.adopt(opened.artifact)
    out = args.out or work.circuit(task.name)
    with progress(f"prune {task.name}") as report:
        circuit = prune_stage(opened, tokens, task, args.config, out, report, again=args.force)
    values = summary(circuit, out)
    if not args.config.search:
        emit(values, args.json)
        return
    best = pareto(finished_trials(search_folder(out))[: args.config.search])
    emit(values | {"pareto": [sizes(trial) | trial.point.model_dump() for trial in best]}, args.json, plain(values))
    if best and not args.json:
        emit({}, False, pareto_table(best))


def sizes(trial: "Trial") -> dict[str, object]:
    """What a trial came to before it was simplified; `loss` is on validation pairs."""
    return {"edges": trial.edges, "nodes": trial.nodes, "loss": trial.loss, "seconds": trial.seconds}


def pareto_table(trials: Sequence["Trial"]) -> "Table":
    """Trials that no other beats in edges, nodes, loss and seconds at once, in 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = "best trials of the search, not simplified"
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("edges", "nodes", "loss", "seconds", "k_coef", "learning_rate", "heaviside_temp"):
        made.add_column(name, justify="right")
    for trial in trials:
        point = trial.point
        varied = (point.k_coef, point.learning_rate, point.heaviside_temp)
        counts = number(trial.edges), number(trial.nodes)
        made.add_row(*counts, f"{trial.loss:.3f}", f"{trial.seconds:.0f}", *map("{:.2g}".format, varied))
    return made


def summary(circuit: "Circuit", out: Path) -> dict[str, object]:
    """What pruning reports of a circuit; `loss` and `accuracy` are on held-out pairs."""
    named = {"out": str(out), "task": circuit.task, "nodes": len(circuit.nodes)}
    scores = circuit.scores
    if scores is None:  # a circuit that someone made by hand
        return named
    return named | {
        "edges": scores.edges,
        "embedding_edges": scores.embedding_edges,
        "unembedding_edges": scores.unembedding_edges,
        "loss": scores.heldout_loss,
        "accuracy": scores.heldout_accuracy,
        "validation_loss": scores.loss,
        "target_loss": scores.target_loss,
        "unpruned_loss": scores.unpruned_loss,
        "unpruned_accuracy": scores.unpruned_accuracy,
        "seconds": scores.seconds,
    }

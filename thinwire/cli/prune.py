"""thinwire prune: find the smallest circuit of a task in a model, or of several tasks in several models."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from thinwire.cli.common import chosen_config, emit, number, parse, plain, progress
from thinwire.cli.prune_args import Args, chosen_tasks
from thinwire.cli.reuse import Watched
from thinwire.errors import UserError
from thinwire.prune.config import PruneConfig

if TYPE_CHECKING:
    from rich.table import Table

    from thinwire.circuit import Circuit
    from thinwire.prune.trial import Trial
    from thinwire.tasks import Task


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    default, rest = chosen_config(PruneConfig, argv, PruneConfig())
    args = parse(Args, rest, "prune", Args(tyro.MISSING, default))
    if not args.models:
        raise UserError("Give the folder of a model, or the name of a shipped one; see thinwire prune --help.")
    tasks = chosen_tasks(args)  # before a model is read, so that wrong names are refused at once
    if args.many:
        from thinwire.cli.fanout import prune_many

        prune_many(args, tasks)
    else:
        prune_one(args, args.models[0], tasks[0])


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
        watched = Watched(report)
        circuit = prune_stage(opened, tokens, task, args.config, out, watched, again=args.force)
    values = summary(circuit, out) | {"reused": watched.reused}
    if not args.config.search:
        emit(values, args.json)
        return
    best = pareto(finished_trials(search_folder(out))[: args.config.search])
    emit(values | {"pareto": [sizes(trial) | trial.point.model_dump() for trial in best]}, args.json, plain(values))
    if best and not args.json:
        emit({}, False, pareto_table(best))


def sizes(trial: "Trial") -> dict[str, object]:
    """The result of a trial before simplification; `loss` is on validation pairs."""
    return {"edges": trial.edges, "nodes": trial.nodes, "loss": trial.loss, "seconds": trial.seconds}


def pareto_table(trials: Sequence["Trial"]) -> "Table":
    """The Pareto-optimal trials in edges, nodes, loss and seconds, in 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = "best trials of the search, not simplified"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("edges", "nodes", "loss", "seconds", "k_coef", "learning_rate", "heaviside_temp"):
        table.add_column(name, justify="right")
    for trial in trials:
        point = trial.point
        varied = (point.k_coef, point.learning_rate, point.heaviside_temp)
        counts = number(trial.edges), number(trial.nodes)
        table.add_row(*counts, f"{trial.loss:.3f}", f"{trial.seconds:.0f}", *map("{:.2g}".format, varied))
    return table


def summary(circuit: "Circuit", out: Path) -> dict[str, object]:
    """The report on a circuit; `loss` and `accuracy` are on held-out pairs and calibrated, as in a verdict."""
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
        "uncalibrated_loss": scores.uncalibrated_loss,
        "uncalibrated_accuracy": scores.uncalibrated_accuracy,
        "auc": scores.auc,
        "heldout_pairs": scores.heldout_pairs,
        "calibration_scale": circuit.calibration.scale,
        "calibration_shift": circuit.calibration.shift,
        "validation_loss": scores.loss,
        "target_loss": scores.target_loss,
        "unpruned_loss": scores.unpruned_loss,
        "unpruned_accuracy": scores.unpruned_accuracy,
        "seconds": scores.seconds,
    }

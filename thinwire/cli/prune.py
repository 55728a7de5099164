"""thinwire prune: find the smallest circuit of a task in a model, or of several tasks in several models."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from thinwire.cli.common import chosen_config, emit, number, parse, plain, progress
from thinwire.cli.lines import wrapped
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
    values = summary(circuit, out) | {"reused": watched.reused, "next": next_commands(args, model, out)}
    said = plain({name: value for name, value in values.items() if name != "next"}) + "\n\n" + remarks(circuit, values)
    if not args.config.search:
        emit(values, args.json, said)
        return
    best = pareto(finished_trials(search_folder(out))[: args.config.search])
    emit(values | {"pareto": [sizes(trial) | trial.point.model_dump() for trial in best]}, args.json, said)
    if best and not args.json:
        emit({}, False, pareto_table(best))


def next_commands(args: Args, model: Path, out: Path) -> list[str]:
    """Commands that check and show the circuit that these arguments have made."""
    from thinwire.stages import Workspace

    words = [str(out)]
    if args.out is not None and out.absolute().parent.parent != Workspace.of_model(model).root.absolute():
        words += ["--model", str(model)]
    if args.task_file is not None:
        words += ["--task-file", str(args.task_file)]
    tokens = [] if args.tokens is None else ["--tokens", str(args.tokens)]
    return [shlex.join(["thinwire", "verify", *words]), shlex.join(["thinwire", "view", *words, *tokens])]


def remarks(circuit: "Circuit", values: Mapping[str, object]) -> str:
    """Whether the circuit meets its target, which pairs were passed over, and what to run next."""
    from thinwire.tasks import use_sentence

    lines = []
    scores = circuit.scores
    if scores is not None:
        lines.append(use_sentence(circuit.task, scores.pairs))
        met, held = values["target_met_validation"], values["target_met_heldout"]
        target = f"The target of {number(scores.target_loss)} nats is {'met' if met else 'missed'} on validation pairs"
        other = "and" if met == held else f"but {'met' if held else 'missed'}"
        lines.append(f"{target} ({scores.loss:.3f}) {other} on held-out pairs ({scores.heldout_loss:.3f}).")
    commands = values["next"]
    assert isinstance(commands, list)
    next_lines = [f"{at}  {command}" for at, command in zip(("Next:", "     "), commands, strict=True)]
    return "\n".join(filter(None, [wrapped(lines), *next_lines]))


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
    from thinwire.tasks import flat_use

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
        "target_met_validation": scores.loss <= scores.target_loss,
        "target_met_heldout": scores.heldout_loss <= scores.target_loss,
        **flat_use(scores.pairs),
        "unpruned_loss": scores.unpruned_loss,
        "unpruned_accuracy": scores.unpruned_accuracy,
        "seconds": scores.seconds,
    }

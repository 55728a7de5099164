"""The table of `thinwire prune`: plans a job for every model and task, runs the jobs, and shows their outcomes."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from thinwire import artifact, shipped
from thinwire.artifact import Artifact
from thinwire.circuit import PruneScores
from thinwire.cli.board import board
from thinwire.cli.common import emit, number
from thinwire.cli.lines import wrapped
from thinwire.cli.prune_args import Args
from thinwire.display import visible
from thinwire.errors import UserError
from thinwire.fanout.cluster import run_on_ray
from thinwire.fanout.job import Job, Outcome, earlier_outcome
from thinwire.fanout.local import run_local
from thinwire.prune.summary import geometric_mean
from thinwire.stages import Opened, Workspace
from thinwire.tasks import Task, use_sentence
from thinwire.view.formats import suffix_of
from thinwire.view.size_plot import draw_sizes, records_of


@dataclass(frozen=True)
class Planned:
    """A job with its task, its model and its tokens."""

    job: Job
    task: Task
    model: Artifact
    tokens: Artifact


def prune_many(args: Args, tasks: Sequence[Task]) -> None:
    """Prune every task in every model; exits with 1, after the table, when a job was parked because it failed."""
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers {args.workers} runs no job; give at least 1.")
    if args.plot is not None and not args.config.ladder:
        raise UserError("--plot draws the circuits of --ladder; give --ladder target losses.")
    if args.plot is not None:
        suffix_of(args.plot)
        artifact.check_file_place(args.plot, "an SVG, PNG or PDF file", option="--plot")
    plan = [planned for model in args.models for planned in planned_jobs(args, model, tasks)]
    check_places([planned.job for planned in plan])
    with ExitStack() as locks:
        for folder in dict.fromkeys(planned.job.out.parent for planned in plan):
            locks.enter_context(artifact.sole_writer(folder))
        before = {p.job.out: earlier_outcome(p.job, p.task, p.model, p.tokens) for p in plan}
        jobs = [p.job for p in plan if before[p.job.out] is None]
        with board(len(plan), len(plan) - len(jobs)) as shown:
            if args.ray is None:
                done = run_local(jobs, args.workers or 1, shown)
            else:
                done = run_on_ray(jobs, args.ray, args.workers, shown)
    results = dict(zip((job.out for job in jobs), done, strict=True))
    outcomes = [before[p.job.out] or results[p.job.out] for p in plan]
    emit(summary(outcomes), args.json, table(outcomes))
    if not args.json:
        emit({}, False, remarks(outcomes))
    if args.plot is not None:
        draw_sizes([record for o in outcomes for record in records_of(o.scores, o.model, o.task)], args.plot)
    if any(outcome.error for outcome in outcomes):
        raise SystemExit(1)


def planned_jobs(args: Args, model: Path, tasks: Sequence[Task]) -> list[Planned]:
    """The jobs of one model. Raises UserError when its files cannot be used, or its circuits cannot be written."""
    work, name = Workspace.of_model(model), name_of(model)
    opened = Opened.open(model)
    tokens = work.open_tokens(args.tokens, model)
    opened.check_tokens(tokens)
    if args.out is None:
        work.adopt(opened.artifact)
    plan = []
    for task in tasks:
        out = (work.circuit(task.name) if args.out is None else args.out / name / task.name).absolute()
        artifact.refuse_foreign(out, "circuit")
        artifact.check_place(out)
        job = Job(
            name=name,
            model=Path(shipped.name_of(model) or model.absolute()),
            tokens=tokens.artifact.path.absolute(),
            task=task.name,
            task_file=None if args.task_file is None else args.task_file.absolute(),
            config=args.config,
            out=out,
            again=args.force,
        )
        plan.append(Planned(job, task, opened.artifact, tokens.artifact))
    return plan


def name_of(model: Path) -> str:
    """The name of a model in a table: its shipped name, else the name of its workspace, else of its folder."""
    folder = model.absolute()
    return shipped.name_of(model) or (folder.parent.name if folder.name == "model" else folder.name)


def check_places(jobs: Sequence[Job]) -> None:
    """Raise UserError when two jobs have the same name or would write the same folder."""
    for what in (lambda job: job.title, lambda job: job.out):
        first: dict[object, Job] = {}
        for job in jobs:
            other = first.setdefault(what(job), job)
            if other is not job:
                raise UserError(
                    f"{other.model} and {job.model} would both write {job.out}; give --out, or prune them in two runs."
                    if other.out == job.out
                    else f"{other.model} and {job.model} are both called {job.name}; prune them in two runs."
                )


def summary(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """The table as one JSON object: `loss` is on validation pairs, null where there is no circuit."""
    return {
        "jobs": [row(outcome) for outcome in outcomes],
        "geomean_edges": geomean_edges(outcomes),
        "geomean_edges_of": {name: geomean_edges(found) for name, found in by_model(outcomes).items()},
        "without_edges": sum(map(needs_none, outcomes)),
        "parked": [row(outcome) for outcome in outcomes if outcome.error],
    }


def row(outcome: Outcome) -> dict[str, object]:
    """One job as flat values."""
    flat: dict[str, object] = asdict(outcome)
    del flat["scores"]
    if outcome.scores is None:
        return flat | dict.fromkeys(field.name for field in fields(PruneScores))
    return flat | asdict(outcome.scores)


def by_model(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes of each model."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.model, []).append(outcome)
    return found


def geomean_edges(outcomes: Iterable[Outcome]) -> float | None:
    """Geometric mean of the edges of the circuits that met the target and have any; None without one."""
    edges = [outcome.scores.edges for outcome in outcomes if outcome.scores is not None and outcome.scores.edges]
    return geometric_mean(edges) if edges else None


def needs_none(outcome: Outcome) -> bool:
    """Whether a circuit without edges meets the target."""
    return outcome.scores is not None and outcome.scores.edges == 0


def table(outcomes: Sequence[Outcome]) -> Table:
    """The jobs for reading, in 80 columns."""
    several = len(by_model(outcomes)) > 1
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    if several:
        grid.add_column("model", overflow="fold")
    grid.add_column("task", overflow="fold")
    for name in ("nodes", "edges", "loss", "held-out", "seconds"):
        grid.add_column(name, justify="right", no_wrap=True)
    for outcome in outcomes:
        names = [outcome.model, outcome.task] if several else [outcome.task]
        grid.add_row(*map(visible, names), *numbers(outcome))
    return grid


def numbers(outcome: Outcome) -> list[str]:
    """The cells of a job after its names."""
    if outcome.scores is None:
        return ["-", "-", "-", "-", "parked" if outcome.error else "missed"]
    scores = outcome.scores
    losses = f"{scores.loss:.3f}", f"{scores.heldout_loss:.3f}"
    return [number(outcome.nodes), number(scores.edges), *losses, f"{scores.seconds:.0f}"]


def remarks(outcomes: Sequence[Outcome]) -> str:
    """What the table leaves out: mean sizes, and why circuits are missing."""
    lines = []
    for model, found in by_model(outcomes).items():
        mean, none = geomean_edges(found), sum(map(needs_none, found))
        met = sum(outcome.scores is not None for outcome in found) - none
        needless = f"; {none} {'needs' if none == 1 else 'need'} no edges" if none else ""
        if mean is not None:
            of = f"over the {met} of {len(found)} tasks whose circuit has edges"
            lines.append(f"{model}: geometric mean of {mean:.1f} edges {of}{needless}")
        elif none:
            lines.append(f"{model}: no circuit with edges{needless}")
    lines += [f"{o.model} {o.task}: {o.missed or o.error}" for o in outcomes if o.scores is None]
    lines += [use_sentence(f"{o.model} {o.task}", o.scores.pairs) for o in outcomes if o.scores is not None]
    return wrapped(lines)

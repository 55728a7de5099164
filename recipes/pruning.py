"""Prunes the shipped model on every task that it can do, by masks and by attribution, and its dense twin too.

Writes docs/results/pruning.json, docs/pruning.svg and the table in docs/pruning.md.

usage: .venv/bin/python recipes/pruning.py [--sparse MODEL] [--dense MODEL] [--tokens DIR] [--work runs/pruning]
           [--tasks NAME ...] [--budget SECONDS] [--config FILE] [--steps N] [--trials N] [--search N]
           [--no-dense] [--json]
       .venv/bin/python recipes/pruning.py --table

Every circuit is an artefact in WORK. The same command continues where it stopped, and the results of several calls are
merged. --table only renders summary, table and plot again from the results.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pruning_results import OTHERS, RESULTS, Row, merge, publish, stored, table, write

from thinwire.circuit import Circuit
from thinwire.cli.common import progress
from thinwire.data import Tokens
from thinwire.prune.config import PruneConfig
from thinwire.prune.reach import TargetMissed
from thinwire.stages import Opened, Workspace, prune_stage
from thinwire.tasks import TASKS, CannotExpress, Task
from thinwire.view.size_plot import SizeRecord, records_of

TARGETS = (0.15, 0.175, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Target losses of the ladder, nats."""
PUBLISHED = PruneConfig(aim=1.0, max_logit_scale=10.0, search=8, sampler="tpe", finalists=3)
"""As in the paper: the target applies to validation pairs, and the calibration is nearly unbounded."""
PLAIN: dict[str, object] = {"search": 0, "trials": 1, "simplify": False, "granularity": "nodes"}
"""One trial without search and simplification, for the comparison of rankings and for the ladder."""


@dataclass(frozen=True)
class Run:
    """One model and everything that its pruning needs."""

    name: str
    opened: Opened
    tokens: Tokens
    config: PruneConfig
    work: Path

    @property
    def description(self) -> dict[str, Any]:
        """The model's entry in the results."""
        made = self.opened.artifact
        return {"name": made.path.name, "id": made.id, "config": self.config.model_dump(mode="json")}

    def circuit(self, task: Task, variant: str, **changes: object) -> Circuit | None:
        """The circuit of a task in WORK/MODEL/VARIANT/TASK; None if the target was missed."""
        with progress(f"{self.name} {task.name} {variant}") as report:
            try:
                config, out = self.config.replace(**changes), self.work / self.name / variant / task.name
                return prune_stage(self.opened, self.tokens, task, config, out, report)
            except TargetMissed:
                return None


def main() -> None:
    """Measure the requested tasks, then render the docs again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparse", type=Path, default=Path("python-2x256"))
    parser.add_argument("--dense", type=Path, default=Path("python-2x256-dense"))
    parser.add_argument("--tokens", type=Path, help="by default those of the sparse model's workspace")
    parser.add_argument("--work", type=Path, default=Path("runs/pruning"))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), metavar="NAME")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no further task starts")
    parser.add_argument("--config", type=Path, help="JSON of a PruneConfig")
    for name in ("steps", "trials", "search"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--no-dense", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.table:
        measured = json.loads(RESULTS.read_text(encoding="utf-8"))
    else:
        config = PruneConfig.load(args.config) if args.config else PUBLISHED
        given = {name: getattr(args, name) for name in ("steps", "trials", "search")}
        config = config.replace(**{name: value for name, value in given.items() if value is not None})
        tokens = Workspace.of_model(args.sparse).open_tokens(args.tokens, args.sparse)
        places = {"sparse": args.sparse} | ({} if args.no_dense else {"dense": args.dense})
        runs = [Run(name, Opened.open(place), tokens, config, args.work) for name, place in places.items()]
        measured = measure(runs, [TASKS[name] for name in args.tasks], args.budget)
    publish(measured)
    print(json.dumps({"out": str(RESULTS), **measured}) if args.json else table(measured))


def measure(runs: list[Run], tasks: list[Task], budget: float) -> dict[str, Any]:
    """Measure tasks one after another; each is merged into the results when it is finished."""
    began = time.perf_counter()
    measured = stored({run.name: run.description for run in runs})
    for index, task in enumerate(tasks):
        if time.perf_counter() - began > budget:
            print(f"The budget ended before {', '.join(task.name for task in tasks[index:])}.")
            break
        sparse, *others = runs
        row, rungs = measured_task(sparse, task)
        merge(measured, sparse.name, row, rungs)
        for run in others if row.able(sparse.config.target_loss) else ():
            merge(measured, run.name, *measured_task(run, task))
        write(measured)
    return measured


def measured_task(run: Run, task: Task) -> tuple[Row, list[SizeRecord]]:
    """One task in one model: its scores and, if the model can do it, its circuits and their ladder."""
    try:
        opened = run.opened.model, run.opened.tokenizer
        validation, heldout = (task.score(*opened, split) for split in ("validation", "heldout"))
    except CannotExpress:
        return Row(task.name), []
    row = Row(task.name, heldout.accuracy, validation.accuracy, heldout.loss, validation.loss)
    if not row.able(run.config.target_loss):
        return row, []
    plain = run.circuit(task, "plain", **PLAIN, ladder=TARGETS)
    rungs = records_of(plain.scores if plain else None, run.name, task.name)
    found = numbers(plain, **{f"{name}_plain": name for name in ("nodes", "edges", "heldout_loss", "seconds")})
    if run.name == "sparse":  # the dense twin is compared on plain circuits only
        names = "loss", "heldout_loss", "heldout_accuracy", "nodes", "edges", "edges_unsimplified", "seconds"
        found |= numbers(run.circuit(task, "final"), **{name: name for name in names})
        for name, changes in OTHERS.items():
            found |= numbers(run.circuit(task, name, **PLAIN | changes), **{f"edges_{name}": "edges"})
    return replace(row, **found), rungs


def numbers(circuit: Circuit | None, **names: str) -> dict[str, Any]:
    """Fields of a row from those of a circuit's scores; none if the target was missed."""
    if circuit is None:
        return {}
    found = asdict(circuit.scores) | {"nodes": len(circuit.nodes)}  # pyright: ignore
    return {field: found[name] for field, name in names.items()}


if __name__ == "__main__":
    main()

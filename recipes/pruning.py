"""Prune every task that the shipped model can do, by masks and by attribution, and its dense twin beside it.

Writes docs/results/pruning.json, docs/pruning.svg and the table in docs/pruning.md.

usage: .venv/bin/python recipes/pruning.py [--sparse MODEL] [--dense MODEL] [--tokens DIR] [--work runs/pruning]
           [--tasks NAME ...] [--budget SECONDS] [--config FILE] [--steps N] [--trials N] [--search N]
           [--no-dense] [--json]
       .venv/bin/python recipes/pruning.py --table

Every circuit is an artefact in WORK: the same command goes on where it stopped, and tasks measured in several calls
come together in the results. --table writes headlines, table and plot again from the results alone.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from thinwire.artifact import make_parents, write_text
from thinwire.circuit import Circuit
from thinwire.cli.common import progress
from thinwire.data import Tokens
from thinwire.prune.config import PruneConfig
from thinwire.prune.run import TargetMissed
from thinwire.prune.summary import Interval, Sizes, edge_ratio, geometric_mean
from thinwire.stages import Opened, Workspace, prune_stage
from thinwire.tasks import TASKS, CannotExpress, Task
from thinwire.view.size_plot import SizeRecord, draw_sizes, records_of

RESULTS = Path("docs/results/pruning.json")
CHART = Path("docs/pruning.svg")
PAGE = Path("docs/pruning.md")
TITLE = "# Pruning\n"
MARKS = ("<!-- sizes:start -->", "<!-- sizes:end -->")
ACCURACY = 0.95
"""On validation pairs; a model that is less accurate cannot do the task, and is not pruned on it."""
ROWS = {"sparse": "tasks", "dense": "dense"}
"""Where the results keep the rows of each model."""
TARGETS = (0.15, 0.175, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Validation losses of the ladder."""
PUBLISHED = PruneConfig(aim=1.0, search=8, sampler="tpe", finalists=3)
"""Validation pairs meet the target exactly, as in the paper."""
PLAIN: dict[str, object] = {"search": 0, "trials": 1, "simplify": False, "granularity": "nodes"}
"""One trial, neither searched nor simplified: what rankings are compared on, and what a ladder is read from."""
OTHERS: dict[str, dict[str, object]] = {
    "attribution": {"method": "attribution"},
    "integrated": {"method": "integrated_gradients"},
    "fixed": {"sparsity": "fixed"},
    "uncalibrated": {"calibrated": False},
    "paper": {"sparsity": "fixed", "calibrated": False, "learning_rate": 3e-3, "warmup": 0.05},
}
"""Other rankings, in what they differ from the plain one; a row has the edges of each as `edges_NAME`."""


@dataclass(frozen=True)
class Row:
    """One task in one model; a circuit's numbers are None where the task was not pruned or the target missed."""

    task: str
    accuracy: float | None = None
    """Of the whole model on held-out names and templates; None where the tokenizer cannot express the task."""
    validation_accuracy: float | None = None
    unpruned_loss: float | None = None
    unpruned_validation_loss: float | None = None
    """Of the whole model too, nats; what follows is of its circuits."""
    loss: float | None = None
    heldout_loss: float | None = None
    heldout_accuracy: float | None = None
    nodes: int | None = None
    edges: int | None = None
    edges_unsimplified: int | None = None
    seconds: float | None = None
    """The final circuit, on validation and on held-out pairs; searched and simplified in so many seconds."""
    nodes_plain: int | None = None
    edges_plain: int | None = None
    heldout_loss_plain: float | None = None
    seconds_plain: float | None = None
    """One trial of learned masks, not simplified."""
    edges_attribution: int | None = None
    """Gradient times (activation - mean), cut the same way as the plain circuit."""
    edges_integrated: int | None = None
    """Integrated gradients, likewise."""
    edges_fixed: int | None = None
    """Learned under a constant pressure, the paper's k_coef, in as many steps as the plain circuit."""
    edges_uncalibrated: int | None = None
    """Learned on the loss before calibration, as in the paper, likewise."""
    edges_paper: int | None = None
    """Both, at the centres of the paper's search (Table 2)."""

    def able(self, target_loss: float) -> bool:
        """Whether the whole model does the task well enough to be pruned on it."""
        accuracy, loss = self.validation_accuracy, self.unpruned_validation_loss
        return accuracy is not None and loss is not None and accuracy >= ACCURACY and loss < target_loss


@dataclass(frozen=True)
class Run:
    """What the pruning of one model takes."""

    name: str
    opened: Opened
    tokens: Tokens
    config: PruneConfig
    work: Path

    def circuit(self, task: Task, what: str, **changes: object) -> Circuit | None:
        """The circuit of a task in WORK/MODEL/WHAT/TASK; None where the target was missed."""
        with progress(f"{self.name} {task.name} {what}") as report:
            try:
                config, out = self.config.replace(**changes), self.work / self.name / what / task.name
                return prune_stage(self.opened, self.tokens, task, config, out, report)
            except TargetMissed:
                return None


def main() -> None:
    """Measure the tasks asked for, then rewrite what the docs show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparse", type=Path, default=Path("python-2x256"))
    parser.add_argument("--dense", type=Path, default=Path("python-2x256-dense"))
    parser.add_argument("--tokens", type=Path, help="by default those of the sparse model's workspace")
    parser.add_argument("--work", type=Path, default=Path("runs/pruning"))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), metavar="NAME")
    parser.add_argument("--budget", type=float, default=float("inf"), help="begin no task after so many seconds")
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
    """Measure tasks one after another, each put beside those measured before as soon as it is done."""
    began = time.perf_counter()
    measured = stored(runs)
    for index, task in enumerate(tasks):
        if time.perf_counter() - began > budget:
            print(f"The time is up before {', '.join(task.name for task in tasks[index:])}.")
            break
        sparse, *others = runs
        row, rungs = measured_task(sparse, task)
        merge(measured, sparse.name, row, rungs)
        for run in others if row.able(sparse.config.target_loss) else ():
            merge(measured, run.name, *measured_task(run, task))
        write(measured)
    return measured


def stored(runs: list[Run]) -> dict[str, Any]:
    """The results so far; those of another model or another config are dropped."""
    found: dict[str, Any] = {"models": {}, "ladder": [], **{rows: [] for rows in ROWS.values()}}
    if RESULTS.exists():
        found |= json.loads(RESULTS.read_text(encoding="utf-8"))
    for run in runs:
        made = run.opened.artifact
        config = run.config.model_dump(mode="json")
        before = found["models"].get(run.name, {})
        if (before.get("id"), before.get("config")) != (made.id, config):
            found[ROWS[run.name]] = []
            found["ladder"] = [record for record in found["ladder"] if record["model"] != run.name]
        found["models"][run.name] = {"name": made.path.name, "id": made.id, "config": config}
    return found


def merge(measured: dict[str, Any], model: str, row: Row, rungs: Iterable[SizeRecord]) -> None:
    """Put a task's row and ladder in the place of earlier ones, tasks in the order of the registry."""
    rows = [old for old in measured[ROWS[model]] if old["task"] != row.task] + [asdict(row)]
    measured[ROWS[model]] = sorted(rows, key=lambda row: list(TASKS).index(row["task"]))
    others = [r for r in measured["ladder"] if (r["model"], r["task"]) != (model, row.task)]
    measured["ladder"] = others + [asdict(record) for record in rungs]


def measured_task(run: Run, task: Task) -> tuple[Row, list[SizeRecord]]:
    """One task in one model: its scores and, where the model can do it, its circuits and their ladder."""
    try:
        asked = run.opened.model, run.opened.tokenizer
        validation, heldout = (task.score(*asked, split) for split in ("validation", "heldout"))
    except CannotExpress:
        return Row(task.name), []
    row = Row(task.name, heldout.accuracy, validation.accuracy, heldout.loss, validation.loss)
    if not row.able(run.config.target_loss):
        return row, []
    plain = run.circuit(task, "plain", **PLAIN, ladder=TARGETS)
    rungs = records_of(plain.scores if plain else None, run.name, task.name)
    found = numbers(plain, **{f"{name}_plain": name for name in ("nodes", "edges", "heldout_loss", "seconds")})
    if run.name == "sparse":  # the twin is compared on plain circuits alone
        names = "loss", "heldout_loss", "heldout_accuracy", "nodes", "edges", "edges_unsimplified", "seconds"
        found |= numbers(run.circuit(task, "final"), **{name: name for name in names})
        for name, changes in OTHERS.items():
            found |= numbers(run.circuit(task, name, **PLAIN | changes), **{f"edges_{name}": "edges"})
    return replace(row, **found), rungs


def numbers(circuit: Circuit | None, **names: str) -> dict[str, Any]:
    """Fields of a row from those of a circuit's scores; none where the target was missed."""
    if circuit is None:
        return {}
    found = asdict(circuit.scores) | {"nodes": len(circuit.nodes)}  # pyright: ignore
    return {field: found[name] for field, name in names.items()}


def headlines(measured: dict[str, Any]) -> dict[str, Any]:
    """What the rows come to: geometric means of edges, and ratios with their intervals over tasks."""

    def sizes(of: Callable[[Row], int | None], model: str = "sparse") -> Sizes:
        """By task that the model can do; None where the target was missed."""
        rows = [Row(**row) for row in measured[ROWS[model]]]
        return {row.task: of(row) for row in rows if row.able(measured["models"][model]["config"]["target_loss"])}

    final, plain = sizes(lambda row: row.edges), sizes(lambda row: row.edges_plain)
    others = {name: sizes(lambda row, name=name: asdict(row)[f"edges_{name}"]) for name in OTHERS}
    dense = sizes(lambda row: row.edges_plain, "dense")
    both = {task: size for task, size in plain.items() if task in dense}
    ratios = {
        "dense_over_sparse_edges": edge_ratio(dense, both),
        "plain_over_final_edges": edge_ratio(plain, final),
        **{f"{name}_over_learned_edges": edge_ratio(sizes, plain) for name, sizes in others.items()},
        "paper_over_final_edges": edge_ratio(others["paper"], final),
    }
    found: dict[str, Any] = {}
    for name, of in {"edges": final, "edges_plain": plain, **{f"edges_{n}": o for n, o in others.items()}}.items():
        known = [size for size in of.values() if size is not None]
        found[f"geomean_{name}"] = geometric_mean(known) if known else None
    return found | {name: None if ratio is None else asdict(ratio) for name, ratio in ratios.items()}


def write(measured: dict[str, Any]) -> None:
    """Rows and what they come to, to the results file."""
    measured.update(headlines(measured))
    make_parents(RESULTS)
    write_text(RESULTS, json.dumps(measured, indent=1) + "\n")


def publish(measured: dict[str, Any]) -> None:
    """Write the results, the plot, and the table in the docs."""
    write(measured)
    records = [SizeRecord(**record) for record in measured["ladder"]]
    if any(record.edges is not None for record in records):
        draw_sizes(records, CHART)
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else TITLE
    if MARKS[0] not in text:
        text = f"{text.rstrip()}\n\n## Sizes of circuits\n\n{MARKS[0]}\n{MARKS[1]}\n"
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    chart = f"![task loss against edges]({CHART.name})\n\n" if CHART.exists() else ""
    write_text(PAGE, f"{before}{MARKS[0]}\n{chart}{table(measured)}\n{MARKS[1]}{after}")


def table(measured: dict[str, Any]) -> str:
    """Headlines and rows as the docs show them."""
    rows = [Row(**row) for row in measured["tasks"]]
    dense = {row["task"]: row["edges_plain"] for row in measured["dense"]}
    able = sum(row.accuracy is not None and row.accuracy >= ACCURACY for row in rows)
    config = measured["models"]["sparse"]["config"]
    lines = [
        f"{len(rows)} tasks scored, {able} with held-out accuracy of {ACCURACY} or more; circuits at a task loss of "
        f"{config['aim'] * config['target_loss']:g} nats on validation pairs. Plain: one trial of learned masks, not "
        "simplified; attribution, integrated gradients, a constant pressure, the loss before calibration, both at the "
        "centres of the paper's search, and the dense twin are cut the same way.",
        "",
        *(f"* {said}" for said in ratios_said(measured)),
        "",
        "| task | accuracy | loss | held-out loss | nodes | edges | before simplifying | plain | attribution "
        "| integrated gradients | fixed | uncalibrated | paper | dense | seconds |",
        "|---" * 15 + "|",
    ]
    for row in rows:
        counts = (row.nodes, row.edges, row.edges_unsimplified, row.edges_plain)
        others = (asdict(row)[f"edges_{name}"] for name in OTHERS)
        cells = [(".3f", value) for value in (row.accuracy, row.loss, row.heldout_loss)]
        cells += [(",", value) for value in (*counts, *others, dense.get(row.task))]
        cells.append((".0f", row.seconds))
        said = ["-" if value is None else format(value, form) for form, value in cells]
        lines.append(f"| {' | '.join([row.task, *said])} |")
    return "\n".join(lines)


def ratios_said(measured: dict[str, Any]) -> list[str]:
    """The headlines in words; those that nothing was measured for are left out."""
    said = []
    if measured["geomean_edges"] is not None:
        said.append(f"Geometric mean of edges over tasks: {measured['geomean_edges']:.1f}.")
    words = {
        "plain_over_final_edges": "Search and simplifying: plain circuits have {} times the edges",
        "attribution_over_learned_edges": "Attribution needs {} times the edges of plain learned masks",
        "integrated_over_learned_edges": "Integrated gradients need {} times the edges of plain learned masks",
        "fixed_over_learned_edges": "A constant pressure needs {} times the edges of the steered one at equal steps",
        "uncalibrated_over_learned_edges": "Masks trained on the loss before calibration need {} times the edges",
        "paper_over_final_edges": "The paper's procedure, not searched, leaves {} times the final circuits' edges",
        "dense_over_sparse_edges": "The dense twin needs {} times the edges of the sparse model",
    }
    for name, sentence in words.items():
        if measured[name] is not None:
            ratio = Interval(**measured[name])
            count = f"{ratio.tasks} tasks" + (f", {ratio.excluded} left out" if ratio.excluded else "")
            said.append(f"{sentence.format(times(ratio.value))} ({times(ratio.low)} to {times(ratio.high)}; {count}).")
    return said


def times(ratio: float) -> str:
    """A ratio in two digits, or all before the point."""
    return f"{ratio:.2g}" if ratio < 10 else f"{ratio:,.0f}"


if __name__ == "__main__":
    main()

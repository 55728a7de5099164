"""Results of recipes/pruning.py: a row for each task, summary statistics, and how the docs show them."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thinwire.artifact import make_parents, write_text
from thinwire.prune.summary import Interval, Sizes, edge_ratio, geometric_mean, without_edges
from thinwire.tasks import TASKS
from thinwire.view.size_plot import SizeRecord, draw_sizes

RESULTS = Path("docs/results/pruning.json")
CHART = Path("docs/pruning.svg")
PAGE = Path("docs/pruning.md")
TITLE = "# Pruning\n"
MARKS = ("<!-- sizes:start -->", "<!-- sizes:end -->")
ACCURACY = 0.95
"""Smallest validation accuracy with which a model counts as able to do a task and is pruned on it."""
ROWS = {"sparse": "tasks", "dense": "dense"}
"""Key of each model's rows in the results."""
OTHERS: dict[str, dict[str, object]] = {
    "attribution": {"method": "attribution"},
    "integrated": {"method": "integrated_gradients"},
    "fixed": {"sparsity": "fixed"},
    "uncalibrated": {"calibrated": False},
    "paper": {"sparsity": "fixed", "calibrated": False, "learning_rate": 3e-3, "warmup": 0.05},
}
"""Options of the other rankings that are compared with the plain one; a row has their edges as `edges_NAME`."""


@dataclass(frozen=True)
class Row:
    """One task in one model; fields of a circuit are None if the task was not pruned or the target was missed."""

    task: str
    accuracy: float | None = None
    """Of the whole model on held-out names and templates; None if the tokenizer cannot express the task."""
    validation_accuracy: float | None = None
    unpruned_loss: float | None = None
    unpruned_validation_loss: float | None = None
    """Of the whole model too, nats; the following fields are those of its circuits."""
    loss: float | None = None
    heldout_loss: float | None = None
    heldout_accuracy: float | None = None
    nodes: int | None = None
    edges: int | None = None
    edges_unsimplified: int | None = None
    seconds: float | None = None
    """Time for search and simplification of the final circuit, which the fields from `loss` on describe."""
    nodes_plain: int | None = None
    edges_plain: int | None = None
    heldout_loss_plain: float | None = None
    seconds_plain: float | None = None
    """One trial of learned masks, not simplified."""
    edges_attribution: int | None = None
    """Ranked by gradient times (activation - mean), otherwise as the plain circuit."""
    edges_integrated: int | None = None
    """Ranked by integrated gradients, otherwise as the plain circuit."""
    edges_fixed: int | None = None
    """Learned under a constant pressure, the paper's k_coef, with the same number of steps as the plain circuit."""
    edges_uncalibrated: int | None = None
    """Learned on the loss before calibration, as in the paper, otherwise as the plain circuit."""
    edges_paper: int | None = None
    """Both, with the hyper-parameters at the centres of the paper's search (Table 2)."""

    def able(self, target_loss: float) -> bool:
        """Whether the whole model does the task well enough to be pruned on it."""
        accuracy, loss = self.validation_accuracy, self.unpruned_validation_loss
        return accuracy is not None and loss is not None and accuracy >= ACCURACY and loss < target_loss


def stored(models: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The results so far, without rows of models whose id or config differs from `models`."""
    found: dict[str, Any] = {"models": {}, "ladder": [], **{rows: [] for rows in ROWS.values()}}
    if RESULTS.exists():
        found |= json.loads(RESULTS.read_text(encoding="utf-8"))
    for model, description in models.items():
        before = found["models"].get(model, {})
        if any(before.get(key) != description[key] for key in ("id", "config")):
            found[ROWS[model]] = []
            found["ladder"] = [record for record in found["ladder"] if record["model"] != model]
        found["models"][model] = description
    return found


def merge(measured: dict[str, Any], model: str, row: Row, rungs: Iterable[SizeRecord]) -> None:
    """Replace a task's row and ladder in the results; tasks are in the order of the registry."""
    rows = [old for old in measured[ROWS[model]] if old["task"] != row.task] + [asdict(row)]
    measured[ROWS[model]] = sorted(rows, key=lambda row: list(TASKS).index(row["task"]))
    others = [r for r in measured["ladder"] if (r["model"], r["task"]) != (model, row.task)]
    measured["ladder"] = others + [asdict(record) for record in rungs]


def headlines(measured: dict[str, Any]) -> dict[str, Any]:
    """Summary statistics: geometric means of edges, and ratios with their intervals over tasks."""

    def sizes(of: Callable[[Row], int | None], model: str = "sparse") -> Sizes:
        """Sizes by task that the model can do; None if the target was missed."""
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
        known = [size for size in of.values() if size]
        found[f"geomean_{name}"] = geometric_mean(known) if known else None
    found["tasks_without_edges"] = without_edges(final)
    return found | {name: None if ratio is None else asdict(ratio) for name, ratio in ratios.items()}


def write(measured: dict[str, Any]) -> None:
    """Write rows and summary statistics to the results file."""
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
    """Summary and rows as the docs show them."""
    rows = [Row(**row) for row in measured["tasks"]]
    dense = {row["task"]: row["edges_plain"] for row in measured["dense"]}
    able = sum(row.accuracy is not None and row.accuracy >= ACCURACY for row in rows)
    config = measured["models"]["sparse"]["config"]
    lines = [
        f"{len(rows)} tasks scored, {able} with held-out accuracy of {ACCURACY} or more. Circuits "
        f"have a calibrated task loss of at most {config['aim'] * config['target_loss']:g} nats on validation pairs. "
        "*Plain* circuits come from one trial of learned masks, without search and simplification. The other columns "
        "differ from *plain* as follows: nodes are ranked by *attribution* or *integrated gradients*; the pressure is "
        "constant (*fixed*); masks are trained on the loss before calibration (*uncalibrated*); both of these, with "
        "the hyper-parameters at the centres of the paper's search (*paper*); or the model is the *dense* twin.",
        "",
        *(f"* {sentence}" for sentence in ratio_sentences(measured)),
        "",
        "| task | model's accuracy | loss | held-out loss | nodes | edges | before simplifying | plain | attribution "
        "| integrated gradients | fixed | uncalibrated | paper | dense | seconds |",
        "|---" * 15 + "|",
    ]
    for row in rows:
        counts = (row.nodes, row.edges, row.edges_unsimplified, row.edges_plain)
        others = (asdict(row)[f"edges_{name}"] for name in OTHERS)
        cells = [(".3f", value) for value in (row.accuracy, row.loss, row.heldout_loss)]
        cells += [(",", value) for value in (*counts, *others, dense.get(row.task))]
        cells.append((".0f", row.seconds))
        shown = ["-" if value is None else format(value, form) for form, value in cells]
        lines.append(f"| {' | '.join([row.task, *shown])} |")
    return "\n".join(lines)


def ratio_sentences(measured: dict[str, Any]) -> list[str]:
    """The summary statistics as sentences; those without measurements are left out."""
    sentences = []
    if measured["geomean_edges"] is not None:
        sentences.append(f"Geometric mean of edges over tasks: {measured['geomean_edges']:.1f}.")
    none = measured["tasks_without_edges"]
    if none:
        need, them = ("1 task needs", "it") if len(none) == 1 else (f"{len(none)} tasks need", "them")
        sentences.append(f"{need} no edges at all, and no mean or ratio includes {them}: {', '.join(none)}.")
    words = {
        "plain_over_final_edges": "Plain circuits have {} times the edges of searched and simplified ones",
        "attribution_over_learned_edges": "Attribution needs {} times the edges of plain learned masks",
        "integrated_over_learned_edges": "Integrated gradients need {} times the edges of plain learned masks",
        "fixed_over_learned_edges": "Constant pressure needs {} times the edges of controlled pressure at equal steps",
        "uncalibrated_over_learned_edges": "Training before calibration needs {} times the edges of plain masks",
        "paper_over_final_edges": "The paper's procedure without search needs {} times the final circuits' edges",
        "dense_over_sparse_edges": "The dense twin needs {} times the edges of the sparse model",
    }
    for name, sentence in words.items():
        if measured[name] is not None:
            ratio = Interval(**measured[name])
            missing = f", {ratio.excluded} without one of the circuits" if ratio.excluded else ""
            count = f"{ratio.tasks} tasks{missing}" + (f", {ratio.unneeded} without edges" if ratio.unneeded else "")
            interval = f"{times(ratio.low)} to {times(ratio.high)}"
            sentences.append(f"{sentence.format(times(ratio.value))} ({interval}; {count}).")
    return sentences


def times(ratio: float) -> str:
    """A ratio with two digits, or without decimals from 10 on."""
    return f"{ratio:.2g}" if ratio < 10 else f"{ratio:,.0f}"

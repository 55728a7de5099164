"""Puts circuits on trial and writes what the battery measured.

Writes docs/results/truth.json, docs/truth.svg and the tables in docs/checks.md.

usage: .venv/bin/python recipes/truth_results.py MODEL --circuits [NAME=]FOLDER ... --tokens TOKENS
           [--out runs/truth] [--thorough] [--json]
       .venv/bin/python recipes/truth_results.py --table

MODEL is a model's folder or a shipped name, and FOLDER has its circuits, such as those of `thinwire prune MODEL --tasks
all`. A set of circuits may have a name; without one it is called `ordinary`. All numbers are of held-out pairs. The
same command continues where it stopped: the verdict on a circuit is made again where the circuit or the checks changed.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from thinwire.artifact import Occupied, make_parents, write_text
from thinwire.circuit import Circuit
from thinwire.cli.circuit_folders import circuit_folders
from thinwire.cli.common import progress
from thinwire.data import Tokens
from thinwire.prune.summary import geometric_mean
from thinwire.stages import Also, Opened, verify_stage
from thinwire.tasks import TASKS
from thinwire.verify import Verdict, VerifyConfig
from thinwire.verify.claims import statuses, weakest, word_of
from thinwire.view.share_plot import SharePoint, draw_shares

RESULTS = Path("docs/results/truth.json")
PICTURE = Path("docs/truth.svg")
PAGE = Path("docs/checks.md")
MARKS = ("<!-- trial:start -->", "<!-- trial:end -->")
ORDINARY = "ordinary"
COLUMNS = {
    "log_odds.share": "share",
    "uncalibrated.accuracy": "own accuracy",
    "sufficiency.loss": "loss",
    "resample.loss": "other pair",
    "other_side.loss": "other side",
    "pretraining.loss": "pretraining",
    "subsets.loss": "subsets",
    "frozen_norms.refitted loss": "frozen norms",
    "adversarial.refitted loss": "adversary",
    "necessity.refitted loss": "removed",
}
"""Measurements that the table of the docs shows, and their titles there."""


def main() -> None:
    """Judge the circuits, then rewrite what the docs show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--circuits", nargs="+", default=[])
    parser.add_argument("--tokens", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/truth"))
    parser.add_argument("--thorough", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.table:
        measured = json.loads(RESULTS.read_text(encoding="utf-8"))
    else:
        if args.model is None or args.tokens is None or not args.circuits:
            parser.error("give a model, --circuits and --tokens, or --table")
        measured = measure(args.model, args.circuits, args.tokens, args.out, VerifyConfig(thorough=args.thorough))
    publish(measured)
    print(json.dumps({"out": str(RESULTS), **measured}) if args.json else table(measured))


def measure(model: Path, sets: Sequence[str], tokens: Path, out: Path, config: VerifyConfig) -> dict[str, Any]:
    """The verdicts on all circuits, written after each."""
    opened, also = Opened.open(model), Also(Tokens.open(tokens))
    rows: list[dict[str, Any]] = []
    for given in sets:
        name, folder = given.split("=", 1) if "=" in given else (ORDINARY, given)
        for circuit in map(Circuit.load, circuit_folders([Path(folder)])):
            with progress(f"{name}, {circuit.task}") as report:
                judge = partial(verify_stage, opened, circuit, config, out / name / circuit.task, report, also=also)
                try:
                    verdict = judge()
                except Occupied:  # by the verdict on an earlier circuit, or of other checks
                    verdict = judge(again=True)
            rows.append(row_of(name, verdict))
            write(summed(rows, config, model))
    return summed(rows, config, model)


def row_of(circuits: str, verdict: Verdict) -> dict[str, Any]:
    """The verdict on a circuit of a named set as a row of the results."""
    word, status = word_of(verdict), statuses(verdict)
    return {
        "circuits": circuits,
        "task": verdict.task,
        "nodes": verdict.nodes,
        "edges": verdict.edges,
        "word": word.word,
        "passed": sum(one == "pass" for one in status.values()),
        "judged": len(status),
        "missed": [check for check, one in status.items() if one != "pass"],
        "weakest": [one.name for one in weakest(verdict) if one.status != "pass"],
        "rows": [one.row() for one in verdict.measurements],
    }


def summed(rows: Sequence[dict[str, Any]], config: VerifyConfig, model: Path) -> dict[str, Any]:
    """The results with their summary, tasks in the order of the registry."""
    order = list(TASKS)
    rows = sorted(rows, key=lambda row: (row["circuits"], order.index(row["task"].partition(".")[0])))
    sets = {
        name: [row for row in rows if row["circuits"] == name] for name in dict.fromkeys(r["circuits"] for r in rows)
    }
    return {
        "model": model.name,
        "config": config.model_dump(mode="json"),
        "sets": {name: summary(found) for name, found in sets.items()},
        "circuits": rows,
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many circuits a set has, how many pass every check, their words, and their size."""
    sizes = [row["edges"] for row in rows if row["edges"]]
    words = [row["word"] for row in rows]
    return {
        "circuits": len(rows),
        "robust": words.count("robust"),
        "words": {word: words.count(word) for word in sorted(set(words))},
        "geomean_edges": geometric_mean(sizes) if sizes else None,
    }


def write(measured: dict[str, Any]) -> None:
    """Write the results."""
    make_parents(RESULTS)
    write_text(RESULTS, json.dumps(measured, indent=1) + "\n")


def publish(measured: dict[str, Any]) -> None:
    """Write the results, the figure, and the table in the docs."""
    write(measured)
    draw_shares(list(points(measured["circuits"])), PICTURE)
    before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
    write_text(PAGE, f"{before}{MARKS[0]}\n{table(measured)}\n{MARKS[1]}{rest.split(MARKS[1])[1]}")


def points(rows: Iterable[dict[str, Any]]) -> Iterable[SharePoint]:
    """The share of the log-odds and the edges of every circuit."""
    for row in rows:
        (share,) = (one for one in row["rows"] if one["name"] == "log_odds.share")
        yield SharePoint(row["circuits"], row["task"], row["edges"], share["value"], share["low"], share["high"])


def table(measured: dict[str, Any]) -> str:
    """The verdicts as the docs show them: a row a circuit, misses in bold."""
    lines = []
    for name, found in measured["sets"].items():
        words = "; ".join(f"{count} {word}" for word, count in found["words"].items())
        lines.append(f"* {found['circuits']} {name} circuits of `{measured['model']}`: {words}.")
    heads = ["circuit", "edges", *COLUMNS.values(), "verdict"]
    lines += ["", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in measured["circuits"]:
        values = {one["name"]: one for one in row["rows"]}
        cells = [cell(values.get(name)) for name in COLUMNS]
        label = row["task"] if row["circuits"] == ORDINARY else f"{row['task']}, {row['circuits']}"
        lines.append(f"| {' | '.join([label, format(row['edges'], ','), *cells, row['word']])} |")
    config = measured["config"]
    lines += [
        "",
        f"Held-out pairs: {config['pairs']}, {config['exchange_pairs']} for values of other sequences. Losses in nats; "
        "a bold value misses its threshold. Intervals are in docs/results/truth.json.",
        "",
        f"![share of the log-odds against edges]({PICTURE.name})",
    ]
    return "\n".join(lines)


def cell(row: dict[str, Any] | None) -> str:
    """A measurement for reading; bold where it misses its threshold."""
    if row is None:
        return "-"
    text = f"{row['value']:.2f}" if abs(row["value"]) < 100 else f"{row['value']:.0f}"
    return f"**{text}**" if row["status"] in ("fail", "warn") else text


if __name__ == "__main__":
    main()

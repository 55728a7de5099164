"""Run the demo and write its results where README shows them.

Writes docs/results/quickstart.json, docs/circuit.svg and the table in README.md.

usage: .venv/bin/python recipes/quickstart_results.py [--out runs/quickstart] [--keep-time] [--json]
       .venv/bin/python recipes/quickstart_results.py --table

Every task of the demo is also pruned on the loss before calibration, for the second row of edges; those circuits are in
OUT/paper_loss. Finished stages are reused; delete the folder for a fresh measurement of the time, or keep the time that
the results have with --keep-time. --table only renders the table again from the results.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path("docs/results/quickstart.json")
PICTURE = Path("docs/circuit.svg")
PICTURED = "bracket_counting"
README = Path("README.md")
MARKS = ("<!-- results:start -->", "<!-- results:end -->")
PAPER_LOSS: dict[str, Any] = {"calibrated": False, "cut": "uncalibrated"}
"""Options under which masks are trained, and circuits are cut, on the loss before calibration."""
SIZES = {
    "nodes": "nodes",
    "edges": "edges",
    "edges_paper_loss": "edges, pruned on the uncalibrated loss",
}
"""Rows of sizes: the key of each in a task's results, and its title in the table."""
JUDGED = {"word": "verdict", "weakest": "weakest"}
"""Rows of words, likewise; results without a verdict's word have none."""


def main() -> None:
    """Measure, then rewrite what README and docs show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--keep-time", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    measured = before if args.table else measure(args.out)
    if args.keep_time:
        measured["seconds"] = before["seconds"]
    if not args.table:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
        picture(args.out)
    start, rest = README.read_text(encoding="utf-8").split(MARKS[0])
    end = rest.split(MARKS[1])[1]
    README.write_text(f"{start}{MARKS[0]}\n{table(measured)}\n{MARKS[1]}{end}", encoding="utf-8")
    print(json.dumps({"out": str(RESULTS), **measured}) if args.json else table(measured))


def measure(out: Path) -> dict[str, Any]:
    """The demo's results, with the size of each task's circuit on the loss before calibration."""
    command = [sys.executable, "-m", "thinwire", "quickstart", "--out", str(out), "--json"]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured = json.loads(finished.stdout.splitlines()[-1])
    for task in measured["tasks"]:
        task["edges_paper_loss"] = edges_on_the_paper_loss(out, task["task"])
    return measured


def edges_on_the_paper_loss(out: Path, task: str) -> int | None:
    """Edges of the circuit that meets the target without calibration; None if none does."""
    from thinwire.cli.common import progress
    from thinwire.data import Tokens
    from thinwire.prune.config import PruneConfig
    from thinwire.prune.reach import TargetMissed
    from thinwire.stages import Opened, Workspace, prune_stage
    from thinwire.tasks import TASKS

    work = Workspace(out)
    with progress(f"{task}, uncalibrated") as report:
        given = Opened.open(work.model), Tokens.open(work.tokens), TASKS[task], PruneConfig(**PAPER_LOSS)
        try:
            circuit = prune_stage(*given, out / "paper_loss" / task, report)
        except TargetMissed:
            return None
    assert circuit.scores is not None
    return circuit.scores.edges


def table(measured: dict[str, Any]) -> str:
    """The results as README shows them: a column for each task."""
    tasks = measured["tasks"]
    lines = [
        f"{measured['weights']}. The demo took {measured['seconds'] / 60:.1f} minutes. Losses in nats on "
        f"{pairs_of(tasks)} held-out pairs, with names and templates that pruning did not use; guessing is 0.69."
        f"{remark(tasks)}",
        "",
        f"| | {' | '.join(task['task'] for task in tasks)} |",
        "|---" * (1 + len(tasks)) + "|",
    ]
    for key, title in {**SIZES, **JUDGED}.items():
        if key in JUDGED and not any(task.get(key) for task in tasks):
            continue
        lines.append(f"| {' | '.join([title, *(cell(task.get(key)) for task in tasks)])} |")
    shown = [headlines(task.get("rows", [])) for task in tasks]
    for name in dict.fromkeys(name for values in shown for name in values):
        lines.append(f"| {' | '.join([name, *(values.get(name, '-') for values in shown)])} |")
    return "\n".join(lines)


def cell(value: int | str | None) -> str:
    """A size or a text for reading."""
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else value


def pairs_of(tasks: list[dict[str, Any]]) -> str:
    """The number of pairs behind the measurements, or the least and the largest."""
    counts = {row["n"] for task in tasks for row in task.get("rows", [])}
    return " to ".join(map(str, sorted({min(counts), max(counts)}))) if counts else "no"


def remark(tasks: list[dict[str, Any]]) -> str:
    """How many tasks need no circuit; empty if all need one."""
    none = [task["task"] for task in tasks if task.get("edges") == 0]
    return f" Tasks that need no edges: {len(none)} ({', '.join(none)})." if none else ""


def headlines(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The measurements that have a column in the table, by its title."""
    from thinwire.verify.measurement import written

    return {row["column"]: written(row["value"], row["unit"]) for row in rows if row["column"]}


def picture(out: Path) -> None:
    """Draw one circuit of the run."""
    from thinwire.circuit import Circuit
    from thinwire.data import Tokens
    from thinwire.stages import Opened, Workspace
    from thinwire.verify import Verdict
    from thinwire.view import Case, Origin, draw, payload_from

    work = Workspace(out)
    opened = Opened.open(work.model)
    case = Case(Circuit.load(work.circuit(PICTURED)), Verdict.load(work.verdict(PICTURED)))
    payload = payload_from(opened.model, Tokens.open(work.tokens), [case], Origin(opened.artifact.id))
    draw(payload.tasks[0], payload.vocab, PICTURE)


if __name__ == "__main__":
    main()

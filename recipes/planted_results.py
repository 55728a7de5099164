"""Runs every pruner on the suite of planted models, and the checks on their true and false circuits.

Writes docs/results/planted.json and the tables in docs/planted.md.

usage: .venv/bin/python recipes/planted_results.py [--seed 0] [--models NAME ...] [--pruners NAME ...]
           [--budget SECONDS] [--json]
       .venv/bin/python recipes/planted_results.py --table

The same command continues where it stopped: a model and pruner that the results have is not run again, unless the seed
is another one. --table only renders the tables again from the results.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thinwire.artifact import make_parents, write_text
from thinwire.model.precision import own_modes
from thinwire.planted import PRUNERS, Planted, suite
from thinwire.planted.pruners import CONFIG, score
from thinwire.prune.bootstrap import percentile_ends
from thinwire.verify import VerifyConfig
from thinwire.verify.checks import all_checks

RESULTS = Path("docs/results/planted.json")
PAGE = Path("docs/planted.md")
MARKS = ("<!-- planted:start -->", "<!-- planted:end -->")
CHECKED = VerifyConfig(pairs=128)
DRAWS = 10_000
"""Bootstrap samples of the models."""


def main() -> None:
    """Measure what is missing, then render the docs again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", nargs="+", metavar="NAME")
    parser.add_argument("--pruners", nargs="+", choices=list(PRUNERS), default=list(PRUNERS), metavar="NAME")
    parser.add_argument(
        "--budget", type=float, default=float("inf"), help="seconds after which no further model starts"
    )
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    measured = stored(args.seed)
    if not args.table:
        models = [one for one in suite(args.seed) if args.models is None or one.name in args.models]
        measure(measured, models, args.pruners, args.budget)
    publish(measured)
    print(json.dumps({"out": str(RESULTS), **measured}) if args.json else table(measured))


def stored(seed: int) -> dict[str, Any]:
    """The results so far; none of another seed or with another config of the pruners."""
    config = CONFIG.model_dump(mode="json")
    if RESULTS.exists():
        found = json.loads(RESULTS.read_text(encoding="utf-8"))
        if (found["seed"], found["config"]) == (seed, config):
            return found
    return {"seed": seed, "config": config, "models": {}, "rows": []}


def measure(measured: dict[str, Any], models: Sequence[Planted], pruners: Sequence[str], budget: float) -> None:
    """Add what is missing, model by model; the results are written after each run."""
    began = time.perf_counter()
    for index, planted in enumerate(models):
        if time.perf_counter() - began > budget:
            print(f"The budget ended before {', '.join(one.name for one in models[index:])}.")
            break
        known = {check.name for check in all_checks()}
        before = measured["models"].get(planted.name)
        if before is None or set(before["checks"]) != known:
            measured["models"][planted.name] = described(planted)
            write(measured)
        for name in pruners:
            pruner, key = PRUNERS[name], {"model": planted.name, "pruner": name}
            if pruner is None or any(row | key == row for row in measured["rows"]):
                continue
            found = score(planted, pruner(planted))
            values = asdict(found)
            measured["rows"].append(key | values.pop("recovery") | values)
            write(measured)


@own_modes()
def described(planted: Planted) -> dict[str, Any]:
    """A model: its family and sizes, and which checks its true and its false circuit do not pass."""
    shape, missed = planted.model.config, {}
    if planted.solvable:
        missed["true"] = failures(planted, false=False)
    if planted.false is not None:
        missed["false"] = failures(planted, false=True)
    return {
        "family": planted.family,
        "layers": shape.n_layers,
        "width": shape.d_model,
        "edges": len(planted.every_edge),
        "true_edges": len(planted.edges) if planted.solvable else 0,
        "false_edges": None if planted.false is None else len(planted.false.edges),
        "caught_by": planted.caught_by,
        "checks": [check.name for check in all_checks()],
        "missed": missed,
    }


def failures(planted: Planted, false: bool) -> list[str]:
    """The checks that a circuit does not pass."""
    wiring = planted.false if false else planted.truth[0]
    assert wiring is not None
    inputs = planted.check_input(wiring, CHECKED)
    judged = {check.name: {one.status for one in check.run(inputs)} for check in all_checks()}
    return [name for name, status in judged.items() if status & {"warn", "fail"}]


def totals(measured: dict[str, Any]) -> dict[str, Any]:
    """For each pruner: means over models with bootstrap intervals over models, for both kinds of families."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(row["pruner"] for row in measured["rows"]):
        rows = [row for row in measured["rows"] if row["pruner"] == name]
        kinds = {"all": rows, **{kind: [row for row in rows if kind_of(measured, row) == kind] for kind in KINDS}}
        found[name] = {
            kind: {
                "models": len(some),
                **{key: mean([float(row[key]) for row in some if row[key] is not None]) for key in MEANS},
                "seconds": float(np.median([row["seconds"] for row in some])) if some else None,
            }
            for kind, some in kinds.items()
        }
    return found


KINDS = ("one true circuit", "with a false circuit", "nonsense")
MEANS = ("exact", "jaccard", "auroc", "false", "refused")


def kind_of(measured: dict[str, Any], row: dict[str, Any]) -> str:
    """Which of KINDS the model of a row is of."""
    model = measured["models"][row["model"]]
    if not model["true_edges"]:
        return KINDS[2]
    return KINDS[0] if model["false_edges"] is None else KINDS[1]


def mean(values: list[float]) -> dict[str, float] | None:
    """A mean over models with its 95 % percentile bootstrap interval; None without any model."""
    if not values:
        return None
    some = np.array(values)
    drawn = np.random.default_rng(0).integers(0, len(some), (DRAWS, len(some)))
    ends = percentile_ends(some, drawn)
    return {"value": float(some.mean()), "low": ends.low, "high": ends.high, "n": len(some)}


def write(measured: dict[str, Any]) -> None:
    """Write rows and totals to the results file."""
    measured["totals"] = totals(measured)
    make_parents(RESULTS)
    write_text(RESULTS, json.dumps(measured, indent=1) + "\n")


def publish(measured: dict[str, Any]) -> None:
    """Write the results, and the tables in the docs."""
    write(measured)
    before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
    write_text(PAGE, f"{before}{MARKS[0]}\n{table(measured)}\n{MARKS[1]}{rest.split(MARKS[1])[1]}")


def table(measured: dict[str, Any]) -> str:
    """The totals of the pruners, and the checks that each false circuit does not pass, as the docs show them."""
    n = len({row["model"] for row in measured["rows"]})
    lines = [
        f"{n} models of seed {measured['seed']}; target loss {measured['config']['target_loss']:g} nats, "
        f"{measured['config']['validation_pairs']} validation pairs, mean ablation. Means over models, with 95 % "
        "bootstrap intervals over models; seconds are the median.",
        "",
        "| pruner | models | exact | Jaccard | AUROC of edges | found the false circuit | found none | seconds |",
        "|---" * 8 + "|",
    ]
    for name, kinds in measured["totals"].items():
        for kind, total in kinds.items():
            if total["models"] and kind != "all":
                cells = [shown(total[key]) for key in MEANS]
                seconds = format(total["seconds"], ".0f" if total["seconds"] >= 1 else ".1f")
                lines.append(f"| {' | '.join([f'{name}, {kind}', str(total['models']), *cells, seconds])} |")
    lines += [
        "",
        "| model | layers, width | edges, true / false | meant to be caught by | the false one fails |",
    ]
    lines.append("|---" * 5 + "|")
    for name, model in measured["models"].items():
        if model["false_edges"] is not None:
            sizes = f"{model['layers']}, {model['width']} | {model['true_edges']} / {model['false_edges']}"
            missed = ", ".join(model["missed"]["false"]) or "none of those that exist"
            lines.append(f"| {name} | {sizes} | {model['caught_by']} | {missed} |")
    return "\n".join(lines)


def shown(total: dict[str, float] | None) -> str:
    """A mean with its interval."""
    return "-" if total is None else f"{total['value']:.2f} ({total['low']:.2f} to {total['high']:.2f})"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

"""Measures steering and circuit transfer through finished bridges.

Writes docs/results/steering.json, docs/results/transfer.json, docs/steering.svg and the tables in docs/bridges.md.

usage: .venv/bin/python recipes/bridge_results.py BRIDGES ... --circuits FOLDER [NAME=FOLDER ...] [--stage maps]
           [--dose sparse/dense] [--pairs 128] [--draws 20] [--json]
       .venv/bin/python recipes/bridge_results.py --table

BRIDGES are workspaces of `thinwire bridge`, one a seed. The circuits of `--circuits` are of the shipped sparse model,
which the bridges of the stages ridge and maps start from; a joint bridge has circuits of its own, in
BRIDGES/runs/circuits, where `thinwire prune BRIDGES/runs/joint` puts them. A set of circuits may have a name, such as
`robust=runs/robust`; without one it is called `ordinary`, and only that set counts for the keys at the top of the
results. All numbers are of held-out pairs. The same command continues where it stopped: a row is measured again where
its bridge, its circuit or an option has changed.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thinwire.artifact import is_finished, make_parents, write_text
from thinwire.bridge.steer_config import SteerConfig, TransferConfig
from thinwire.bridge.steer_report import SteerReport
from thinwire.circuit import Circuit
from thinwire.cli.circuit_folders import circuit_folders
from thinwire.cli.common import progress
from thinwire.stages import Bridged, steer_stage, transfer_stage
from thinwire.view.steer_plot import draw_steering

STEERING = Path("docs/results/steering.json")
TRANSFER = Path("docs/results/transfer.json")
PICTURE = Path("docs/steering.svg")
PAGE = Path("docs/bridges.md")
MARKS = ("<!-- results:start -->", "<!-- results:end -->")
STAGES = ("ridge", "maps", "joint")
ORDINARY = "ordinary"
QUOTES, SCANNED = "single_double_quote", "while_return_true"
"""The task of whole curves at every stage, and one that its circuit does not steer; scanned reads steer both too."""
SCAN = {"reads": "scan", "top": 8, "first_point": 1}
TIMES = 5.0
"""A circuit counts as one of the dense model where its loss is so many times the 90th percentile of random nodes'."""


@dataclass(frozen=True)
class Case:
    """A circuit and the bridge whose sparse model it is of."""

    bridge: Path
    stage: str
    circuits: str
    """Name of the set of circuits."""
    circuit: Circuit

    @property
    def task(self) -> str:
        """The circuit's task."""
        return self.circuit.task


@dataclass(frozen=True)
class Options:
    """How everything is measured."""

    stage: str
    """The stage that counts for the keys at the top of the results."""
    dose: str
    pairs: int
    draws: int
    seed: int = 0

    def transfer(self, ablation: str) -> TransferConfig:
        """The config of a row of circuit transfer."""
        return TransferConfig().replace(ablation=ablation, pairs=self.pairs, draws=self.draws, seed=self.seed)

    def steering(self, case: Case) -> Iterator[SteerConfig]:
        """The configs of the rows of steering: none for most tasks at the stages that do not count."""
        base = SteerConfig().replace(pairs=self.pairs, draws=self.draws, seed=self.seed, dose=self.dose)
        if case.task == QUOTES:
            yield base
        elif case.stage == self.stage:
            yield base.replace(strengths=(1.0,))
        if case.task in (QUOTES, SCANNED):
            yield base.replace(strengths=(1.0,), **SCAN)


def cases(bridges: Sequence[Path], sets: dict[str, Path]) -> Iterator[Case]:
    """Every circuit at every finished stage of every workspace."""
    for work in bridges:
        for stage in (stage for stage in STAGES if is_finished(work / stage)):
            own = {ORDINARY: work / "runs" / "circuits"}
            for name, folder in (own if stage == "joint" else sets).items():
                if folder.is_dir():
                    for circuit in circuit_folders([folder]):
                        yield Case(work / stage, stage, name, Circuit.load(circuit))


def measure(found: Sequence[Case], options: Options, write: Callable[[], None], results: dict[str, Any]) -> None:
    """Add every row that is missing to `results`, and write after each."""
    opened: dict[Path, Bridged] = {}
    for number, case in enumerate(found):
        for path in [path for path in opened if path != case.bridge]:
            del opened[path]
        bridged = opened.setdefault(case.bridge, Bridged.open(case.bridge))
        label = f"{number + 1} of {len(found)}: {case.task} {case.stage}"
        for ablation in ("mean", "exchange"):
            key = _key(case, bridged, options.transfer(ablation))
            if not _has(results["transfer"], key):
                with progress(f"transfer {label}") as report:
                    row = transfer_stage(bridged, [case.circuit], options.transfer(ablation), report).rows[0]
                values = {"random_p90": row.nodes_high, "directions_p90": row.directions_high, "over": row.over_random}
                results["transfer"].append(key | asdict(row) | values)
                write()
        for config in options.steering(case):
            key = _key(case, bridged, config)
            if not _has(results["steering"], key):
                with progress(f"steer {label}") as report:
                    steered = steer_stage(bridged, case.circuit, config, report)
                results["steering"].append(key | steering_values(steered) | {"report": asdict(steered)})
                write()
                if case.task == QUOTES and case.stage == options.stage and not PICTURE.exists():
                    draw_steering(steered, PICTURE)


def _key(case: Case, bridged: Bridged, config: SteerConfig | TransferConfig) -> dict[str, Any]:
    """What a row is of: a row with the same key is not measured again."""
    made = case.circuit.artifact
    assert made is not None
    return {
        "task": case.task,
        "stage": case.stage,
        "bridge_seed": bridged.stored.artifact.meta.seed,
        "circuits": case.circuits,
        "bridge_id": bridged.stored.artifact.id,
        "circuit_id": made.id,
        "config": config.model_dump(mode="json"),
    }


def _has(rows: Sequence[dict[str, Any]], key: dict[str, Any]) -> bool:
    return any(all(row[name] == value for name, value in key.items()) for row in rows)


def steering_values(found: SteerReport) -> dict[str, Any]:
    """The flat values of a row of steering: at strength 1, all reads and those from h_1 on, at both doses."""
    curves = {f"{curve.dose} {curve.part}": curve.at(found.reference.strength) for curve in found.curves}
    return {
        "ratio": found.reference.smaller,
        "random_p90": found.random_high,
        "ratios": {name: [side.ratio.value for side in step.sides] for name, step in curves.items()},
        "log_odds": {name: [side.log_odds.value for side in step.sides] for name, step in curves.items()},
        "flips": {name: [side.flips.value for side in step.sides] for name, step in curves.items()},
        "ceiling": {f"h_{one.point}": [side.ratio.value for side in one.own] for one in found.points},
        "n": found.n,
        "split": found.split,
    }


def headlines(results: dict[str, Any], options: Options) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys at the top of both files: the worst seed of the stage and the circuits that count."""

    def counted(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row for row in rows if (row["stage"], row["circuits"]) == (options.stage, ORDINARY)]

    means = [row for row in counted(results["transfer"]) if row["ablation"] == "mean"]
    worst = {task: min(row["over"] for row in means if row["task"] == task) for task in {row["task"] for row in means}}
    seeds = sorted({row["bridge_seed"] for row in means})
    transfer = {
        "tasks": len(worst),
        "tasks_above_5x": sum(over >= TIMES for over in worst.values()),
        "stage": options.stage,
        "seeds": seeds,
        "over_random_worst_seed": dict(sorted(worst.items())),
    }

    def steered(task: str, reads: str) -> list[dict[str, Any]]:
        rows = counted(results["steering"])
        return [row for row in rows if (row["task"], row["config"]["reads"]) == (task, reads)]

    quotes, quotes_scanned, scanned = steered(QUOTES, "circuit"), steered(QUOTES, "scan"), steered(SCANNED, "scan")
    steering = {
        "quotes_ratio": min((row["ratio"] for row in quotes), default=None),
        "quotes_random_p90": max((row["random_p90"] for row in quotes), default=None),
        "quotes_scanned_ratio": min((row["ratio"] for row in quotes_scanned), default=None),
        "while_return_true_ratio": min((row["ratio"] for row in scanned), default=None),
        "while_return_true_random_p90": max((row["random_p90"] for row in scanned), default=None),
        "stage": options.stage,
        "dose": options.dose,
        "seeds": sorted({row["bridge_seed"] for row in quotes}),
    }
    return steering, transfer


def rows_in(path: Path) -> list[dict[str, Any]]:
    """The rows that a results file has so far."""
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []


def write_results(results: dict[str, Any], options: Options) -> None:
    """Write both files."""
    heads = headlines(results, options)
    for path, head, name in zip((STEERING, TRANSFER), heads, ("steering", "transfer"), strict=True):
        make_parents(path)
        write_text(path, json.dumps({**head, "rows": results[name]}, indent=1) + "\n")


def tables() -> str:
    """Both results as the docs show them."""
    steering, transfer = (json.loads(path.read_text(encoding="utf-8")) for path in (STEERING, TRANSFER))
    rows, seeds = transfer["rows"], ", ".join(map(str, transfer["seeds"]))
    how = rows[0]["config"]
    lines = [
        f"Ranges over bridge seeds {seeds}; {how['pairs']} held-out pairs, {how['draws']} draws of random nodes.",
        "",
        "| task | circuits | stage | dense loss | under the circuit's reads | random nodes p90 | ratio |",
        "|---" * 7 + "|",
    ]
    means = [row for row in rows if row["ablation"] == "mean"]
    for group in _groups(means, ("task", "circuits", "stage")):
        cells = [span([row["own"]["loss"] for row in group]), span([row["circuit"]["loss"] for row in group])]
        cells += [span([row["random_p90"] for row in group]), span([row["over"] for row in group])]
        lines.append(f"| {' | '.join([group[0]['task'], group[0]['circuits'], group[0]['stage'], *cells])} |")
    dose = steering["dose"]
    lines += ["", f"Steering at strength 1, dose {dose}: ratio of the probability of the other prompt's answer.", ""]
    lines += ["| task | stage | reads | ratio, two sides | flips | random nodes p90 |", "|---" * 6 + "|"]
    for group in _groups(steering["rows"], ("task", "circuits", "stage", "reads")):
        own = f"{dose} all"
        ratios, flips = ([row[name][own] for row in group] for name in ("ratios", "flips"))
        cells = [" / ".join(span(side) for side in zip(*both, strict=True)) for both in (ratios, flips)]
        words = [group[0]["task"], group[0]["stage"], group[0]["config"]["reads"], *cells]
        words.append(span([row["random_p90"] for row in group]))
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def _groups(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[list[dict[str, Any]]]:
    """The rows that are the same but for the bridge's seed, in the order in which they occur."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row["config"][name] if name == "reads" else row[name] for name in names), []).append(row)
    return list(found.values())


def span(values: Sequence[float]) -> str:
    """One value, or the smallest and the largest of several."""
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def publish() -> None:
    """Write the tables into the docs page."""
    text = PAGE.read_text(encoding="utf-8")
    if MARKS[0] not in text:
        text = f"{text.rstrip()}\n\n## Results\n\n{MARKS[0]}\n{MARKS[1]}\n"
    before, rest = text.split(MARKS[0])
    shown = (f"![probability over strength]({PICTURE.name})\n\n" if PICTURE.exists() else "") + tables()
    write_text(PAGE, f"{before}{MARKS[0]}\n{shown}\n{MARKS[1]}{rest.split(MARKS[1])[1]}")


def main() -> None:
    """Measure, then rewrite what the docs show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bridges", type=Path, nargs="*")
    parser.add_argument("--circuits", nargs="+", default=["runs/quickstart"])
    parser.add_argument("--stage", choices=STAGES, default="maps")
    parser.add_argument("--dose", choices=("sparse/dense", "dense/sparse"), default="sparse/dense")
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not args.table:
        options = Options(args.stage, args.dose, args.pairs, args.draws)
        named = [("=" in word and word.split("=", 1)) or [ORDINARY, word] for word in args.circuits]
        sets = {name: Path(folder) for name, folder in named}
        found, before = list(cases(args.bridges, sets)), {"steering": rows_in(STEERING), "transfer": rows_in(TRANSFER)}
        results = kept(before, found)
        measure(found, options, lambda: write_results(results, options), results)
        write_results(results, options)
    publish()
    heads = [json.loads(path.read_text(encoding="utf-8")) for path in (STEERING, TRANSFER)]
    print(json.dumps([{**head, "rows": len(head["rows"])} for head in heads]) if args.json else tables())


def kept(before: dict[str, Any], found: Sequence[Case]) -> dict[str, Any]:
    """The rows of earlier calls, without those of circuits that have been replaced."""
    ids = {case.circuit.artifact.id for case in found if case.circuit.artifact}
    names = {(case.task, case.stage, case.circuits) for case in found}
    return {
        name: [
            row for row in rows if row["circuit_id"] in ids or (row["task"], row["stage"], row["circuits"]) not in names
        ]
        for name, rows in before.items()
    }


if __name__ == "__main__":
    main()

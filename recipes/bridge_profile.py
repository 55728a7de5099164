"""Collects how well finished bridges carry both models, over residual points, stages and training.

Writes docs/results/bridges.json and the table in docs/bridges.md.

usage: .venv/bin/python recipes/bridge_profile.py BRIDGES ... [--json]

BRIDGES are workspaces of `thinwire bridge`, one a seed. The first is the one whose time counts: it has to be fitted on
a machine that does nothing else. Gaps are those of the last stage, of the worst seed.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bridge_results import span

from thinwire.artifact import METRICS, is_finished, make_parents, write_text
from thinwire.bridge.config import BridgeConfig
from thinwire.bridge.store import StoredBridge, load_bridge

OUT = Path("docs/results/bridges.json")
PAGE = Path("docs/bridges.md")
MARKS = ("<!-- profile:start -->", "<!-- profile:end -->")
STAGES = ("ridge", "maps", "joint")
TERMS = ("loss", "sparse_loss", "nmse", "kl_to_sparse", "kl_to_dense")


def rows_of(work: Path) -> list[dict[str, Any]]:
    """A row for every finished stage of a workspace: losses of all crossings, nats per token on held-out tokens."""
    rows = []
    for stage in (stage for stage in STAGES if is_finished(work / stage)):
        stored = load_bridge(work / stage)
        profile = stored.summary.profile
        rows.append(
            {
                "seed": stored.artifact.meta.seed,
                "stage": stage,
                "minutes": stored.summary.seconds / 60,
                "gap_dense_to_sparse": profile.gap_to_sparse,
                "gap_sparse_to_dense": profile.gap_to_dense,
                "dense": profile.dense,
                "sparse": profile.sparse,
                "to_sparse": profile.to_sparse,
                "to_dense": profile.to_dense,
                "nmse_encode": profile.nmse_encode,
                "nmse_decode": profile.nmse_decode,
                "bridge_id": stored.artifact.id,
                "over_training": over_training(work / "runs" / stage / METRICS),
                "config": options_of(stored),
            }
        )
    return rows


def options_of(stored: StoredBridge) -> dict[str, Any]:
    """The options of a stage that are not the defaults, and the numbers of steps."""
    config = stored.artifact.config(BridgeConfig)
    defaults = BridgeConfig()
    names = [n for n in BridgeConfig.model_fields if getattr(config, n) != getattr(defaults, n) or n.endswith("steps")]
    return {name: getattr(config, name) for name in names}


def over_training(path: Path) -> dict[str, list[float]]:
    """The losses of training batches by step; empty for a stage that is not trained."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    logged = [line for line in map(json.loads, lines) if "kl_to_dense" in line]
    return {name: [line[name] for line in logged] for name in ("step", *TERMS)} if logged else {}


def headline(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The keys at the top of the file."""
    last = [row for row in rows if row["stage"] == rows[-1]["stage"]]
    start = {row["seed"]: row["sparse"] for row in rows if row["stage"] == "ridge"}
    return {
        "gap_dense_to_sparse": max(row["gap_dense_to_sparse"] for row in last),
        "gap_sparse_to_dense": max(row["gap_sparse_to_dense"] for row in last),
        "sparse_ce_change": max(row["sparse"] - start[row["seed"]] for row in last),
        "minutes": last[0]["minutes"],
        "stage": last[0]["stage"],
        "seeds": [row["seed"] for row in last],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A row for each stage and direction: the gap over the dense model's loss at every residual point."""
    points = range(len(rows[0]["to_sparse"]))
    seeds = sorted({row["seed"] for row in rows})
    names = ["stage", "minutes", "crossing", "sparse model's own loss", *(f"h_{i}" for i in points), "worst"]
    lines = [
        f"Held-out loss of every crossing over the dense model's {rows[0]['dense']:.3f} nats per token; seeds "
        f"{', '.join(map(str, seeds))}, a range is over seeds. Minutes of fitting, earlier stages included, are "
        f"of seed {rows[0]['seed']} on two idle cores.",
        "",
        f"| {' | '.join(names)} |",
        "|---" * len(names) + "|",
    ]
    for stage in dict.fromkeys(row["stage"] for row in rows):
        group = [row for row in rows if row["stage"] == stage]
        for way, key, gap in (
            ("dense → sparse", "to_sparse", "gap_dense_to_sparse"),
            ("sparse → dense", "to_dense", "gap_sparse_to_dense"),
        ):
            gaps = [span([round(row[key][i] - row["dense"], 3) for row in group]) for i in points]
            own = " to ".join(dict.fromkeys(f"{value:.3f}" for value in sorted(row["sparse"] for row in group)))
            name = stage if len(group) == len(seeds) else f"{stage} (seed {group[0]['seed']})"
            cells = [name, f"{group[0]['minutes']:.1f}", way, own, *gaps, span([round(row[gap], 3) for row in group])]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def publish(rows: Sequence[dict[str, Any]]) -> None:
    """Write the table into the docs page, between its marks."""
    before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
    write_text(PAGE, f"{before}{MARKS[0]}\n{table(rows)}\n{MARKS[1]}{rest.split(MARKS[1])[1]}")


def main() -> None:
    """Collect, write, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bridges", type=Path, nargs="+")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = [row for work in args.bridges for row in rows_of(work)]
    if not rows:
        parser.error("none of these workspaces has a finished bridge; run thinwire bridge first")
    make_parents(OUT)
    write_text(OUT, json.dumps(headline(rows) | {"rows": rows}, indent=1) + "\n")
    publish(rows)
    print(json.dumps(headline(rows)) if args.json else table(rows))


if __name__ == "__main__":
    main()

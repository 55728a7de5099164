"""Train the tiny model under each choice of the recipe, on several seeds, and compare the loss curves.

Writes docs/results/loss_curves.json, docs/loss_curves.svg and the table in docs/training.md.

usage: .venv/bin/python recipes/loss_curves.py [--work runs/curves] [--tokens DIR] [--seeds 3] [--steps 500]
           [--threads 2] [--only NAME ...] [--json]
Finished runs are kept and interrupted ones resume, so the recipe can be stopped at any time. Figures are drawn from the
runs that are finished.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch

from thinwire.data import DataConfig, Tokens, build
from thinwire.train import TrainConfig, read_metrics, read_result, train
from thinwire.train.metrics import group
from thinwire.train.presets import tiny
from thinwire.train.result import mean_loss

RESULTS = Path("docs/results/loss_curves.json")
CHART = Path("docs/loss_curves.svg")
PAGE = Path("docs/training.md")
MARKS = ("<!-- curves:start -->", "<!-- curves:end -->")

BASE = "base"
EDITS: dict[str, tuple[str, dict[str, object]]] = {
    BASE: ("divide by the RMS, top-k, linear anneal to 10%, L0 factor", {}),
    "clip": ("gradient clipped to RMS 1", {"gradient": "clip"}),
    "floor_2": ("floor of 2 nonzeros per channel", {"floor": 2}),
    "no_l0_factor": ("learning rate without 1/√L0", {"l0_factor": "off"}),
    "anneal_5": ("linear anneal to 5%", {"anneal_stop": 0.05}),
    "anneal_20": ("linear anneal to 20%", {"anneal_stop": 0.2}),
    "anneal_50": ("linear anneal to 50%", {"anneal_stop": 0.5}),
    "anneal_80": ("linear anneal to 80%", {"anneal_stop": 0.8}),
    "exponential_10": ("exponential anneal to 10%", {"anneal": "exponential"}),
    "exponential_50": ("exponential anneal to 50%", {"anneal": "exponential", "anneal_stop": 0.5}),
    "no_anneal": ("sparse from the first step", {"anneal": "none"}),
    "soft_topk": ("soft top-k", {"sparsity": "soft_topk"}),
    "hardconcrete": ("HardConcrete gates", {"sparsity": "hardconcrete"}),
    "l1": ("L1 pressure", {"sparsity": "l1"}),
    "group_lasso": ("group lasso pressure", {"sparsity": "group_lasso"}),
    "dense": ("dense twin at its own rate: no weight or activation sparsity", {"density": 1.0, "learning_rate": 0.004}),
}
"""Every run by name: a description, and how its config differs from the base."""
PANELS = {
    "gradient, floor, rate": (BASE, "clip", "floor_2", "no_l0_factor"),
    "linear anneal until": (BASE, "anneal_5", "anneal_20", "anneal_50", "anneal_80"),
    "kind of anneal": (BASE, "exponential_10", "anneal_50", "exponential_50", "no_anneal"),
    "sparsifier": (BASE, "soft_topk", "hardconcrete", "l1", "group_lasso", "dense"),
}


def main() -> None:
    """Train the missing runs, then rewrite results, chart and table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/curves"))
    parser.add_argument("--tokens", type=Path, help="tokens artefact; by default the demo's corpus is built in WORK")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", default=list(EDITS), choices=list(EDITS), metavar="NAME")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokens = Tokens.open(args.tokens) if args.tokens else build(DataConfig(), args.work / "tokens")
    for seed in range(args.seeds):
        for name in args.only:
            result = train(run_of(name, seed, args.steps), tokens, folder(args.work, name, seed))
            print(f"{name} seed {seed}: {result.val_loss:.4f}, {result.nonzeros:,} nonzeros, {result.seconds:.0f} s")
    measured = collect(args.work, args.seeds, args.steps, tokens)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    draw(measured)
    before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    PAGE.write_text(f"{before}{MARKS[0]}\n{table(measured)}\n{MARKS[1]}{after}", encoding="utf-8")
    print(json.dumps(measured) if args.json else table(measured))


def run_of(name: str, seed: int, steps: int) -> TrainConfig:
    """The config of one run: the tiny preset, shorter, and what `EDITS` changes."""
    config = tiny().replace(
        steps=steps,
        seed=seed,
        validate_every=max(1, steps // 20),
        validation_tokens=16_384,
        checkpoint_every=steps,
        **EDITS[name][1],
    )
    return config.replace(model=config.model.replace(active_fraction=1.0)) if name == "dense" else config


def folder(work: Path, name: str, seed: int) -> Path:
    """The folder of a run."""
    return work / name / str(seed)


def collect(work: Path, seeds: int, steps: int, tokens: Tokens) -> dict:
    """Final losses and curves of the finished runs, means and ranges over seeds."""
    rows = []
    for name, (what, _) in EDITS.items():
        done = [folder(work, name, seed) for seed in range(seeds)]
        done = [place for place in done if (place / "meta.json").exists()]
        if not done:
            continue
        results = [read_result(place) for place in done]
        losses = [result.val_loss for result in results]
        curves = [curve(place, tokens) for place in done]
        at = sorted(set.intersection(*map(set, curves)))
        rows.append(
            {
                "name": name,
                "what": what,
                "seeds": len(done),
                "val_loss": statistics.mean(losses),
                "val_loss_range": [min(losses), max(losses)],
                "nonzeros": round(statistics.mean(result.nonzeros for result in results)),
                "seconds": round(statistics.mean(result.seconds for result in results), 1),
                "curve": [[step, *spread([c[step] for c in curves])] for step in at],
            }
        )
    run = run_of(BASE, 0, steps)
    return {
        "steps": steps,
        "tokens_per_run": steps * run.batch_size * run.model.context,
        "entries": results[0].entries,
        "runs": rows,
    }


def curve(place: Path, tokens: Tokens) -> dict[int, float]:
    """Validation loss of a run by step, corpus parts weighted as in training."""
    parts = group(read_metrics(place), "val_losses")
    steps = next(iter(parts.values())).steps  # all parts are measured at the same steps
    at = [{part: found.values[i] for part, found in parts.items()} for i in range(len(steps))]
    return {step: mean_loss(losses, tokens) for step, losses in zip(steps, at, strict=True)}


def spread(values: list[float]) -> list[float]:
    """Mean, least and largest, to four places."""
    return [round(value, 4) for value in (statistics.mean(values), min(values), max(values))]


def draw(measured: dict) -> None:
    """Draw the chart: one panel per question; a line is the mean over seeds, its band their range."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    runs = {row["name"]: row for row in measured["runs"]}
    look = {"svg.hashsalt": "thinwire", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
    with plt.rc_context(look):
        figure, axes = plt.subplots(2, 2, figsize=(10, 7.2), sharex=True, sharey=True, layout="constrained")
        for panel, (title, names) in zip(axes.flat, PANELS.items(), strict=True):
            for name in (name for name in names if name in runs):
                steps, mean, low, high = zip(*runs[name]["curve"], strict=True)
                style = {"color": "black", "linewidth": 1.8} if name == BASE else {"linewidth": 1.3}
                (line,) = panel.plot(steps, mean, label=f"{name}  {runs[name]['val_loss']:.3f}", **style)
                panel.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
            panel.set_title(title, loc="left")
            panel.grid(alpha=0.3)
            panel.legend(frameon=False, title="final loss", alignment="left")
        top = max(row["curve"][1][1] for row in measured["runs"] if row["name"] != "clip")
        axes[0, 0].set_ylim(min(row["val_loss"] for row in measured["runs"]) - 0.1, top)
        figure.supxlabel("step")
        figure.supylabel("validation loss, nats per token")
        figure.savefig(CHART, metadata={"Date": None})
        plt.close(figure)


def table(measured: dict) -> str:
    """The final losses as the docs show them."""
    base = next(row["val_loss"] for row in measured["runs"] if row["name"] == BASE)
    lines = [
        f"{measured['steps']} steps, {measured['tokens_per_run'] / 1e6:.1f} M tokens a run, "
        f"{measured['runs'][0]['seeds']} seeds, {measured['entries']:,} entries. Losses in nats per token.",
        "",
        "| run | what | validation loss | range over seeds | against base | nonzeros | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in measured["runs"]:
        low, high = row["val_loss_range"]
        lines.append(
            f"| {row['name']} | {row['what']} | {row['val_loss']:.3f} | {low:.3f} to {high:.3f} "
            f"| {row['val_loss'] - base:+.3f} | {row['nonzeros']:,} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

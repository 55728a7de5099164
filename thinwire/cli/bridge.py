"""thinwire bridge: fit maps between a dense and a sparse model, at every residual point."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table

from thinwire.bridge.config import BridgeConfig
from thinwire.cli.bars import Phases
from thinwire.cli.common import chosen_config, command, emit, parse
from thinwire.cli.reuse import Watched
from thinwire.errors import UserError
from thinwire.progress import Report, duration

if TYPE_CHECKING:
    from thinwire.bridge.profile import Profile
    from thinwire.bridge.store import StoredBridge
    from thinwire.stages.bridge_folders import Stage
    from thinwire.tasks import Task

REMEDY = "--force makes every stage again"
RIDGE_SECONDS, MAPS_SECONDS, JOINT_SECONDS = 12.0, 0.8, 1.3
"""What the regression and a step of each stage take on two cores; after the first stage only the ratios count."""


@dataclass(frozen=True)
class Args:
    """Fit a bridge between a dense and a sparse model, which share a tokenizer and the number of layers.

    The dense model may be a Hugging Face one of type gpt2, llama or gpt_neox (pip install 'thinwire[hf]').

    Three stages follow one another, each from the result of the one before: ridge regression, training of the maps with
    both models frozen, and training of the maps and of the sparse model's nonzeros together. Each leaves a bridge, in
    OUT/ridge, OUT/maps and OUT/joint; the last has a sparse model of its own, OUT/runs/joint. The same command resumes
    an interrupted stage and reuses finished ones; Ctrl-C saves first, but for the ridge regression, which begins again.
    The report of all stages is OUT/report.html.
    """

    dense: tyro.conf.Positional[Path]
    """Dense model: a folder, of a Hugging Face model too, or the name of a shipped model."""
    sparse: tyro.conf.Positional[Path]
    """Sparse model, likewise."""
    tokens: Path
    """Tokens artefact to fit on, of the tokenizer of both models."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the bridges, such as runs/mine/bridge."""
    config: Annotated[BridgeConfig, tyro.conf.arg(name="")]
    task_file: Path | None = None
    """JSON Lines file of pairs: a task of your own, named after the file, for --tasks."""
    sae: Path | None = None
    """New folder that gets the maps of the last stage in the layout of sparse autoencoders, a folder for each point."""
    force: bool = False
    """Make all stages again, as after a change of options or models; those in OUT stay until all are finished."""
    json: bool = False
    """End stdout with one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    default, rest = chosen_config(BridgeConfig, argv, BridgeConfig())
    args = parse(Args, rest, "bridge", Args(tyro.MISSING, tyro.MISSING, tyro.MISSING, tyro.MISSING, default))
    from thinwire.bridge.export import check_export, export_sae
    from thinwire.data import Tokens
    from thinwire.stages import Ends, bridge_stage
    from thinwire.stages.bridge_folders import again_in, stages

    if args.sae is not None:
        check_export(args.sae)
        if again_in(args.out).absolute() in (args.sae.absolute(), *args.sae.absolute().parents):
            raise UserError(f"{args.sae} lies where --force makes the stages again; choose another --sae.")
    began, reused = time.perf_counter(), list[Path]()
    tasks, config = chosen_tasks(args), args.config
    ends = Ends.open(args.dense, args.sparse, Tokens.open(args.tokens))
    ends = ends.with_tasks(tasks, config.task_share if tasks else 0.0, config.seed)
    kinds = stages(args.config)
    phases = Phases(kinds, expected(args.config))
    with ExitStack() as stack:

        def report(_: str) -> Report:
            stack.close()
            return Watched(stack.enter_context(phases()), REMEDY, reused)

        found = bridge_stage(ends, args.out, args.config, report, again=args.force)
    if args.sae is not None:
        export_sae(list(found.values())[-1], args.sae)
    after = [command("info", args.out)]
    for stage in (stage for stage in ("joint", "scratch") if stage in found):
        model = args.out / "runs" / stage
        after.append(command("prune", model, "--tokens", args.tokens, "--task", "bracket_counting"))
    values = {
        "out": str(args.out),
        "sae": None if args.sae is None else str(args.sae),
        "stages": {stage: as_values(stored) for stage, stored in found.items()},
        "reused": bool(reused),
        "reused_folders": [str(folder) for folder in reused],
        "next": [words.strip() for words in after],
        "seconds": time.perf_counter() - began,
    }
    values["page"] = str(page(args.out, len(reused) < len(found)))
    emit(values, args.json, table(found))
    if not args.json:
        emit({}, False, "\n".join(["Next:", *after]))


def page(out: Path, changed: bool) -> Path:
    """The report of all stages, written anew where one was made."""
    from thinwire.view.bridge_report import write_bridge_report
    from thinwire.view.report import REPORT

    there = out / REPORT
    return write_bridge_report(out) if changed or not there.is_file() else there


def expected(config: BridgeConfig) -> dict[str, float]:
    """Seconds that each stage is likely to take."""
    return {
        "ridge": RIDGE_SECONDS,
        "maps": config.bridge_steps * MAPS_SECONDS,
        "joint": config.joint_steps * JOINT_SECONDS,
        "scratch": config.scratch_steps * JOINT_SECONDS,
    }


def chosen_tasks(args: Args) -> "list[Task]":
    """The tasks whose prompts the bridge is fitted on. Raises UserError for unknown ones, and for an altered file."""
    from thinwire.bridge.prompts import labels
    from thinwire.tasks import find_tasks, task_from_file

    own = None if args.task_file is None else task_from_file(args.task_file)
    names = [label.partition(":")[0] for label in args.config.tasks] + ([own.name] if own else [])
    tasks = find_tasks(list(dict.fromkeys(names)), own) if names else []
    for label, known in zip(args.config.tasks, labels(tasks), strict=False):
        if ":" in label and label != known:
            raise UserError(f"The config was written for {label} and --task-file has {known}; give the earlier file.")
    return tasks


def as_values(stored: "StoredBridge") -> dict[str, object]:
    """A stage as JSON: its folder, seconds with all stages before, and held-out losses in nats per token."""
    profile = stored.summary.profile
    gaps = {"gap_dense_to_sparse": profile.gap_to_sparse, "gap_sparse_to_dense": profile.gap_to_dense}
    seconds = stored.summary.seconds
    return {"folder": str(stored.artifact.path), **gaps, **asdict(profile), "seconds": seconds}


def table(found: "Mapping[Stage, StoredBridge]") -> Table:
    """Held-out cross-entropy of every crossing, a row for each stage and direction."""
    profiles = [stored.summary.profile for stored in found.values()]
    slim = {"box": SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}
    grid = Table(
        title=f"Held-out cross-entropy in nats per token; the dense model has {profiles[0].dense:.3f}",
        caption="A column is the residual point at which one model hands over to the other; "
        "gap is the worst point's distance from the dense model.",
        title_justify="left",
        caption_justify="left",
        **slim,
    )
    for name in ("stage", "crossing"):
        grid.add_column(name)
    for name in ("time", "sparse", *(f"h_{i}" for i in range(len(profiles[0].to_sparse))), "gap"):
        grid.add_column(name, justify="right", no_wrap=True)
    for stage, stored in found.items():
        for row in _rows(stage, stored.summary.seconds, stored.summary.profile):
            grid.add_row(*row)
    return grid


def _rows(stage: str, seconds: float, profile: "Profile") -> Iterator[tuple[str, ...]]:
    """The two rows of a stage."""
    to_sparse, to_dense = ([f"{loss:.2f}" for loss in losses] for losses in (profile.to_sparse, profile.to_dense))
    own = duration(seconds), f"{profile.sparse:.3f}"
    yield stage, "dense → sparse", *own, *to_sparse, f"{profile.gap_to_sparse:.2f}"
    yield "", "sparse → dense", "", "", *to_dense, f"{profile.gap_to_dense:.2f}"

"""thinwire monitor: read chosen sparse nodes from a dense model while it reads prompts, or goes on from them."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table

from thinwire import artifact
from thinwire.cli.common import emit, parse, progress
from thinwire.cli.terminal import console, visible_table
from thinwire.errors import UserError

if TYPE_CHECKING:
    from thinwire.bridge.monitor import Monitor
    from thinwire.bridge.readings import Calibration, Reading
    from thinwire.bridge.thresholds import Threshold
    from thinwire.bridge.watched import Watched
    from thinwire.stages import Bridged


@dataclass(frozen=True)
class Args:
    """Read chosen sparse nodes from a dense model through a bridge: one JSON object for each prompt.

    A node is read from the dense model's residual stream as a linear probe: a row of the encoder, or for queries, keys,
    values and neurons a sum of such rows. Where prompts are labelled, a threshold is chosen for each node on one half
    of them, by the values at their last tokens, and precision, recall, F1 and the area under the ROC curve are those of
    the other half.
    """

    bridge: tyro.conf.Positional[Path]
    """Bridge artefact, such as OUT/maps of thinwire bridge."""
    prompts: Annotated[Path, tyro.conf.arg(aliases=["-p"])]
    """JSON Lines file: {"text": "…"} in each line, with a "label" of true or false for thresholds."""
    nodes: tuple[str, ...] = ()
    """Nodes of the sparse model, such as 1.attn.act_in:17, or channels of its residual stream, such as h_4:17."""
    circuit: Path | None = None
    """Circuit artefact of the sparse model: watch its nodes, and the channels it writes at every later point."""
    dense: Path | None = None
    """Dense model of the bridge; unset looks for it."""
    sparse: Path | None = None
    """Sparse model of the bridge; unset looks for it."""
    exact: bool = False
    """Run the whole encoder and the sparse sublayers on its output, AbsTopK and norm included, instead of probes."""
    threshold: tuple[float, ...] = ()
    """Values from which on nodes are flagged: one for all, or one for each node; labels then judge these."""
    below: bool = False
    """Flag values down from --threshold instead."""
    generate: int = 0
    """Tokens that the dense model adds to each prompt; those that ran have values too."""
    temperature: float = 0.0
    """Of these tokens; 0 always takes the likeliest."""
    last: bool = False
    """Write the values at the prompt's last token alone."""
    seed: int = 0
    """Seed of the halves of labelled prompts, and of generated tokens."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File for the objects; unset writes them on stdout."""
    json: bool = False
    """End stdout with one JSON object: the nodes, their thresholds and how well they do."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "monitor")
    if args.out is not None:
        artifact.check_file_place(args.out, "a JSON Lines file", read=[args.prompts])
    from thinwire.bridge.monitor import Monitor
    from thinwire.bridge.readings import calibrate, read_prompts, readings, records
    from thinwire.bridge.thresholds import halves
    from thinwire.model.config import SampleConfig
    from thinwire.stages import Bridged

    began = time.perf_counter()
    prompts = read_prompts(args.prompts)
    sampling = None
    if args.temperature and not args.generate:
        raise UserError("--temperature is that of generated tokens; give --generate too.")
    if args.generate:
        sampling = SampleConfig().replace(tokens=args.generate, temperature=args.temperature, seed=args.seed)
    bridged = Bridged.open(args.bridge, args.dense, args.sparse)
    monitor = Monitor(
        bridged.dense.target, bridged.stored.bridge, bridged.sparse.model, chosen(args, bridged), args.exact
    )
    given = thresholds(args, len(monitor.nodes))
    labelled = [(each.text, each.label) for each in prompts.values() if each.label is not None]
    judged = bool(labelled) if given is None else len({label for _, label in labelled}) == 2
    if judged and given is None:
        halves([text for text, _ in labelled], [label for _, label in labelled], args.seed)  # raises before any work
    with progress("monitor") as report:
        found = readings(monitor, bridged.sparse.tokenizer, prompts, sampling, report, args.prompts)
    calibration = calibrate(found, args.seed, given) if judged else None
    if calibration is not None:
        given = tuple(each.threshold for each in calibration.detections)
    lines = records(found, monitor, bridged.sparse.tokenizer, given, args.last)
    if args.out is None:
        for line in lines:
            emit(line, True)
    else:
        artifact.make_parents(args.out)
        artifact.write_text(args.out, "".join(json.dumps(line) + "\n" for line in lines))
    values = summary(args, monitor, found, calibration, given) | {"seconds": time.perf_counter() - began}
    if args.json:
        emit(values, True)
    elif calibration is not None:
        console(stderr=args.out is None).print(visible_table(table(monitor, calibration, bool(args.threshold))))
    elif args.out is not None:
        emit({name: values[name] for name in ("out", "prompts", "tokens", "seconds")}, False)


def chosen(args: Args, bridged: "Bridged") -> "list[Watched]":
    """The nodes to watch. Raises UserError for invalid ones, and for another model's circuit."""
    from thinwire.bridge.watched import Watched, watched_of
    from thinwire.circuit import Circuit

    shape = bridged.sparse.model.config
    found = [Watched.parse(name, shape) for name in args.nodes]
    if args.circuit is not None:
        circuit = Circuit.load(args.circuit)
        bridged.check_circuit(circuit)
        found += watched_of(circuit.nodes, shape)
    if not found and args.circuit is None:
        raise UserError("There is no node to watch; give --nodes, or a --circuit of the sparse model.")
    return found


def thresholds(args: Args, nodes: int) -> "tuple[Threshold, ...] | None":
    """The thresholds that were given, one for each node; None where there are none."""
    from thinwire.bridge.thresholds import Threshold

    if not args.threshold:
        if args.below:
            raise UserError("--below says how --threshold flags values; give --threshold too.")
        return None
    if not all(map(math.isfinite, args.threshold)):
        raise UserError("--threshold has to be a finite number.")
    if len(args.threshold) not in (1, nodes):
        raise UserError(
            f"{len(args.threshold)} thresholds were given for {nodes} nodes; give one for all, or one for each."
        )
    given = args.threshold if len(args.threshold) == nodes else args.threshold * nodes
    return tuple(Threshold(value, not args.below) for value in given)


def summary(
    args: Args,
    monitor: "Monitor",
    found: "Sequence[Reading]",
    calibration: "Calibration | None",
    flagging: "Sequence[Threshold] | None",
) -> dict[str, object]:
    """What was watched, and how well it tells labelled prompts apart, as values for JSON."""
    values: dict[str, object] = {
        "out": None if args.out is None else str(args.out),
        "prompts": len(found),
        "tokens": sum(len(reading.tokens) for reading in found),
        "nodes": list(monitor.names),
        "values": "exact" if args.exact else "linear probes",
    }
    if flagging is not None:
        values["thresholds"] = [{"value": each.value, "above": each.above} for each in flagging]
    if calibration is not None:
        values["chosen_on_lines"] = sorted(calibration.chosen_on)
        values["reported_on_lines"] = sorted(calibration.reported_on)
        values["detection"] = {
            name: each.row() for name, each in zip(monitor.names, calibration.detections, strict=True)
        }
    return values


def table(monitor: "Monitor", calibration: "Calibration", given: bool) -> Table:
    """How well each node tells labelled prompts apart, with 95 % intervals."""
    first = calibration.detections[0]
    prompts = f"{first.positive:,} prompts labelled true and {first.negative:,} false"
    origin = "given" if given else f"chosen on {len(calibration.chosen_on):,} other prompts"
    grid = Table(
        title=f"Values at the last tokens of {prompts}",
        caption=f"Thresholds were {origin}; intervals are of 95 %; auc is the area under the ROC curve.",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    grid.add_column("node", overflow="fold")
    for name in ("flagged", "precision", "recall", "F1", "auc"):
        grid.add_column(name, justify="right", no_wrap=True)
    for name, each in zip(monitor.names, calibration.detections, strict=True):
        shares = (each.precision, each.recall, each.f1, each.auc)
        grid.add_row(
            name,
            f"{'≥' if each.threshold.above else '≤'} {each.threshold.value:.4g}",
            *("none" if value is None else f"{value:.3f}" for value in shares),
        )
        intervals = (each.precision_interval, each.recall_interval, each.f1_interval, each.auc_interval)
        grid.add_row("", "", *("" if one is None else f"{one.low:.2f}–{one.high:.2f}" for one in intervals))
    return grid

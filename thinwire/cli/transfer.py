"""thinwire transfer: what circuits of the sparse model matter to the dense model that it is bridged to."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from pydantic import TypeAdapter
from rich.box import SIMPLE_HEAD
from rich.table import Table

from thinwire import artifact
from thinwire.bridge.steer_config import TransferConfig
from thinwire.cli.circuit_folders import circuit_folders
from thinwire.cli.common import chosen_config, emit, parse, progress
from thinwire.cli.lines import wrapped
from thinwire.cli.steer import check_files, said
from thinwire.errors import UserError

if TYPE_CHECKING:
    from thinwire.bridge.transfer import Loss
    from thinwire.stages.transfer import TransferReport


@dataclass(frozen=True)
class Args:
    """Test circuits of the sparse model in the dense model: move the dense model's reads, through a bridge, as ablating
    the circuit moves the sparse model's, and do the same with random nodes and random directions of the same size.

    --config FILE takes the options below from a JSON file; options on the command line win.
    """

    bridge: tyro.conf.Positional[Path]
    """Bridge artefact, such as runs/bridge/maps."""
    circuits: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="CIRCUIT...")]
    """Circuit artefacts of the bridge's sparse model, or workspaces, for all of their circuits."""
    config: Annotated[TransferConfig, tyro.conf.arg(name="")]
    dense: Path | None = None
    """Dense model of the bridge; unset looks among the shipped models and beside the bridge."""
    sparse: Path | None = None
    """Sparse model of the bridge, likewise; that of a joint bridge is OUT/runs/joint."""
    task_file: Path | None = None
    """JSON Lines file of pairs: your own task, named by the file's stem."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """JSON file for everything that was measured."""
    json: bool = False
    """End stdout with one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    default, rest = chosen_config(TransferConfig, argv, TransferConfig())
    args = parse(Args, rest, "transfer", Args(tyro.MISSING, (), default))
    if not args.circuits:
        raise UserError("Name at least one circuit folder, or a workspace, after the bridge.")
    check_files(args.out, read=args.task_file)
    from thinwire.circuit import Circuit
    from thinwire.stages import Bridged, transfer_stage
    from thinwire.stages.transfer import TransferReport
    from thinwire.tasks import task_from_file

    began = time.perf_counter()
    own = None if args.task_file is None else task_from_file(args.task_file)
    circuits = [Circuit.load(folder) for folder in circuit_folders(args.circuits)]
    bridged = Bridged.open(args.bridge, args.dense, args.sparse)
    with progress("transfer") as report:
        found = transfer_stage(bridged, circuits, args.config, report, own)
    if args.out is not None:
        artifact.make_parents(args.out)
        artifact.write_text(args.out, TypeAdapter(TransferReport).dump_json(found, indent=1).decode() + "\n")
    values = {"out": args.out and str(args.out), **as_values(found), "seconds": time.perf_counter() - began}
    emit(values, args.json, table(found))
    if not args.json:
        emit({}, False, wrapped(remarks(found)))


def as_values(found: "TransferReport") -> dict[str, object]:
    """The report as JSON, with what follows from each row."""
    rows = [
        {
            **asdict(row),
            "random_nodes_p90": row.nodes_high,
            "random_directions_p90": row.directions_high,
            "over_random": row.over_random,
        }
        for row in found.rows
    ]
    return {**asdict(found), "rows": rows}


def table(found: "TransferReport") -> Table:
    """A row for each circuit: losses of the dense model by itself, under the circuit, and under random nodes."""
    first = found.rows[0]
    how = "means" if first.ablation == "mean" else "the other prompt's values"
    slim = {"box": SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "collapse_padding": True}  # names fit into 80
    grid = Table(
        title=f"Task loss of the dense model, nats, with reads set to {how}: {found.stage} bridge",
        title_justify="left",
        **slim,
    )
    grid.add_column("\ntask", overflow="fold")
    for name in ("\nreads", "by\nitself", "under the\ncircuit's", "nodes\np90", "\nmax", "dirs\np90", "over\np90"):
        grid.add_column(name, justify="right", no_wrap=True)
    for row in found.rows:
        randoms = (row.nodes_high, row.random_nodes[-1], row.directions_high)
        cells = f"{row.own.loss:.3f}", _with_ends(row.circuit), *(f"{value:.3f}" for value in randoms)
        grid.add_row(row.task, f"{row.reads}", *cells, f"{row.over_random:.3g}")
    return grid


def _with_ends(loss: "Loss") -> str:
    ends = loss.loss_interval
    return f"{loss.loss:.3f} ({ends.low:.2f}–{ends.high:.2f})"


def remarks(found: "TransferReport") -> Iterator[str]:
    """How to read the table, and what it leaves out."""
    first = found.rows[0]
    pairs = sorted({row.n for row in found.rows})
    n = f"{pairs[0]}" if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
    yield (
        f"{n} {said(first.split)} pairs a task, seed {first.seed}; in brackets the 95 % interval over pairs. "
        "Reads: how many are moved. Nodes and dirs: "
        f"{len(first.random_nodes)} draws of random nodes, and of random directions, with moves of the same "
        "size at the same points. Over p90: the loss under the circuit's reads over that of random nodes."
    )
    if found.without_reads:
        yield f"Left out, since these circuits read no channel: {', '.join(found.without_reads)}."

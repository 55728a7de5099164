"""thinwire verify: check whether a circuit tells the truth."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.table import Table

from thinwire.cli.common import chosen_config, emit, parse, progress
from thinwire.verify.config import VerifyConfig

if TYPE_CHECKING:
    from thinwire.verify import Verdict


@dataclass(frozen=True)
class Args:
    """Check a circuit on unseen pairs: is it enough, is it needed, would any circuit of its size do."""

    circuit: tyro.conf.Positional[Path]
    """Circuit artefact."""
    config: Annotated[VerifyConfig, tyro.conf.arg(name="")]
    model: Path | None = None
    """Model the circuit was cut from; unset looks for `../../model` from the circuit."""
    task_file: Path | None = None
    """JSON Lines file of pairs, a task of one's own called by the file's stem."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder of the verdict artefact; unset writes `verdicts/TASK` beside the model."""
    force: bool = False
    """Check again even if a finished verdict is there."""
    json: bool = False
    """End stdout with one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    default, rest = chosen_config(VerifyConfig, argv, VerifyConfig())
    args = parse(Args, rest, "verify", Args(tyro.MISSING, default))
    from thinwire.circuit import Circuit
    from thinwire.stages import Opened, Workspace, verify_stage
    from thinwire.tasks import task_from_file

    own = None if args.task_file is None else task_from_file(args.task_file)
    circuit = Circuit.load(args.circuit)
    model = args.model or args.circuit.absolute().parent.parent / "model"
    opened = Opened.open(model)
    out = args.out or Workspace.of_model(model).verdict(circuit.task)
    began = time.perf_counter()
    with progress(f"verify {circuit.task}") as report:
        verdict = verify_stage(opened, circuit, args.config, out, report, again=args.force, own=own)
    values = {"out": str(out), **summary(verdict), "seconds": time.perf_counter() - began}
    emit(values, args.json, table(verdict))


def summary(verdict: "Verdict") -> dict[str, object]:
    """The verdict as flat values; `loss` and `accuracy` are those of the circuit alone."""
    others = {f"{row.name}_loss": row.loss for row in verdict.rows if row.name != "sufficiency"}
    enough = verdict["sufficiency"]
    return {
        "task": verdict.task,
        "nodes": verdict.nodes,
        "edges": verdict.edges,
        "target_loss": verdict.target_loss,
        "loss": enough.loss,
        "accuracy": enough.accuracy,
        **others,
    }


def table(verdict: "Verdict") -> Table:
    """The verdict for reading."""
    title = f"{verdict.task}: {verdict.nodes} nodes, {verdict.edges} edges, target loss {verdict.target_loss:g}"
    made = Table(title=title, title_justify="left", caption="held-out pairs", caption_justify="left")
    made.add_column("check")
    made.add_column("loss", justify="right")
    made.add_column("accuracy", justify="right")
    made.add_column("how to read it", overflow="fold")
    for row in verdict.rows:
        made.add_row(row.name, f"{row.loss:.3f}", f"{row.accuracy:.3f}", row.meaning)
    return made

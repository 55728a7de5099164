"""thinwire verify: faithfulness checks on a circuit."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from thinwire.cli.common import chosen_config, emit, parse, progress
from thinwire.cli.lines import wrapped
from thinwire.cli.reuse import Watched
from thinwire.cli.verdicts import in_brief, meanings, table
from thinwire.verify.config import VerifyConfig

if TYPE_CHECKING:
    from thinwire.stages import Bridged
    from thinwire.verify import Verdict


NO_TOKENS = (
    "No pretraining tokens were found beside the model, so the checks with values of pretraining sequences are left "
    "out; give --tokens for them."
)


@dataclass(frozen=True)
class Args:
    """Put a circuit on trial: exchange, ablate and remove, on pairs that pruning never saw, and say what holds."""

    circuit: tyro.conf.Positional[Path]
    """Circuit artefact."""
    config: Annotated[VerifyConfig, tyro.conf.arg(name="")]
    model: Path | None = None
    """Model the circuit was cut from; unset looks for `../../model` from the circuit."""
    task_file: Path | None = None
    """JSON Lines file of pairs: your own task, named by the file's stem."""
    tokens: Path | None = None
    """Tokens whose held-out sequences stand in for nodes outside; unset takes those beside the model, if any."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder of the verdict artefact; unset writes `verdicts/TASK` beside the model."""
    bridge: Path | None = None
    """Bridge of the circuit's model to a dense one: also check what the circuit does there, ablated and steered by."""
    dense: Path | None = None
    """The bridge's dense model, where it is not found near the bridge or among the shipped ones."""
    every: bool = False
    """Print every measurement; unset prints the one of each check that decides."""
    force: bool = False
    """Check again, and replace a finished verdict, whatever its options."""
    json: bool = False
    """End stdout with one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    default, rest = chosen_config(VerifyConfig, argv, VerifyConfig())
    args = parse(Args, rest, "verify", Args(tyro.MISSING, default))
    from thinwire.circuit import Circuit
    from thinwire.data import Tokens
    from thinwire.stages import Also, Opened, Workspace, tokens_near, verify_in, verify_stage
    from thinwire.tasks import task_from_file, use_sentence
    from thinwire.verify.claims import verdict_line

    own = None if args.task_file is None else task_from_file(args.task_file)
    circuit = Circuit.load(args.circuit)
    model = args.model or args.circuit.absolute().parent.parent / "model"
    opened = Opened.open(model)
    work = Workspace.of_model(model)
    out = args.out or work.verdict_on(circuit)
    began = time.perf_counter()
    bridged = None if args.bridge is None else through(args, Path(model), opened.artifact.id)
    tokens = tokens_near(work, opened) if args.tokens is None else Tokens.open(args.tokens)
    also = Also(tokens, own, bridged)
    with progress(f"verify {circuit.task}") as report:
        watched = Watched(report)
        if args.out is None:
            verdict = verify_in(work, opened, circuit, args.config, watched, args.force, also)
        else:
            verdict = verify_stage(opened, circuit, args.config, out, watched, args.force, also)
    line = verdict_line(verdict)
    ended = {"reused": watched.reused, "seconds": time.perf_counter() - began}
    values = {"out": str(out), "verdict": line, **summary(verdict), **rows(verdict), **ended}
    emit(values, args.json, table(verdict, args.every))
    if not args.json:
        missing = [] if tokens else [NO_TOKENS]
        below = [*meanings(verdict), use_sentence(verdict.task, verdict.pairs), *missing, line]
        emit({}, False, f"\n{wrapped(below)}")


def through(args: Args, model: Path, model_id: str) -> "Bridged":
    """The bridge of --bridge, opened; the circuit's model is its sparse model if it is the one it was fitted to."""
    from thinwire.bridge.store import load_bridge
    from thinwire.stages import Bridged

    assert args.bridge is not None
    parents = load_bridge(args.bridge).artifact.meta.parents
    return Bridged.open(args.bridge, args.dense, model if parents.get("sparse") == model_id else None)


def summary(verdict: "Verdict") -> dict[str, object]:
    """The verdict as flat values: sizes, and every measurement that tables of several circuits show, by its key."""
    from thinwire.tasks import flat_use

    return {
        "task": verdict.task,
        **in_brief(verdict),
        "nodes": verdict.nodes,
        "edges": verdict.edges,
        "target_loss": verdict.target_loss,
        **flat_use(verdict.pairs),
        **{found.headline.key: found.value for found in verdict.measurements if found.headline},
    }


def rows(verdict: "Verdict") -> dict[str, object]:
    """Every measurement as one row, under `rows`; `column` is its title in tables of several circuits."""
    return {"rows": [measurement.row() for measurement in verdict.measurements]}

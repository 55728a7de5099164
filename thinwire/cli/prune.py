"""thinwire prune: find the smallest circuit of a task in a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from thinwire.cli.common import chosen_config, emit, parse, progress
from thinwire.prune.config import PruneConfig

if TYPE_CHECKING:
    from thinwire.circuit import Circuit


@dataclass(frozen=True)
class Args:
    """Find the smallest circuit of a task. A finished circuit of the same config and model is reused.

    --config FILE takes the options below from a JSON file; options on the command line win.
    """

    model: tyro.conf.Positional[Path]
    """Model artefact, or the name of a shipped model."""
    task: Annotated[str, tyro.conf.arg(aliases=["-t"])]
    """Name of the task; `thinwire tasks list` has them."""
    config: Annotated[PruneConfig, tyro.conf.arg(name="")]
    tokens: Path | None = None
    """Tokens of the model's tokenizer; unset looks for `tokens` beside the model, or in `runs/NAME` if shipped."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder of the circuit artefact; unset writes `circuits/TASK` beside the model, or in `runs/NAME`."""
    force: bool = False
    """Prune again even if a finished circuit is there."""
    json: bool = False
    """End stdout with one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    default, rest = chosen_config(PruneConfig, argv, PruneConfig())
    args = parse(Args, rest, "prune", Args(tyro.MISSING, tyro.MISSING, default))
    from thinwire.stages import Opened, Workspace, prune_stage
    from thinwire.tasks import TASKS

    task = TASKS[args.task].name  # refused before a model is read
    work = Workspace.of_model(args.model)
    opened = Opened.open(args.model)
    tokens = work.open_tokens(args.tokens, args.model)
    if args.out is None:
        work.adopt(opened.artifact)
    out = args.out or work.circuit(task)
    with progress(f"prune {task}") as report:
        circuit = prune_stage(opened, tokens, task, args.config, out, report, again=args.force)
    emit(summary(circuit, out), args.json)


def summary(circuit: "Circuit", out: Path) -> dict[str, object]:
    """What pruning reports of a circuit; `loss` and `accuracy` are on held-out pairs."""
    named = {"out": str(out), "task": circuit.task, "nodes": len(circuit.nodes)}
    scores = circuit.scores
    if scores is None:  # a circuit that someone made by hand
        return named
    return named | {
        "edges": scores.edges,
        "embedding_edges": scores.embedding_edges,
        "unembedding_edges": scores.unembedding_edges,
        "loss": scores.heldout_loss,
        "accuracy": scores.heldout_accuracy,
        "validation_loss": scores.loss,
        "target_loss": scores.target_loss,
        "unpruned_loss": scores.unpruned_loss,
        "unpruned_accuracy": scores.unpruned_accuracy,
        "seconds": scores.seconds,
    }

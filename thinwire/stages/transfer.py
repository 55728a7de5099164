"""From a bridge and circuits of its sparse model to what ablating the circuits' reads does to the dense model."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import with_config

from thinwire.bridge.reads import Read, circuit_reads
from thinwire.bridge.steer_config import TransferConfig
from thinwire.bridge.transfer import Case, Transfer, transfer
from thinwire.circuit import Circuit, circuit_task
from thinwire.config import STRICT
from thinwire.display import one_line
from thinwire.errors import UserError
from thinwire.progress import Report, silent
from thinwire.stages.bridged import Bridged
from thinwire.stages.steer import joined, pairs_of
from thinwire.tasks import Task


@one_line
@with_config(STRICT)
@dataclass(frozen=True)
class TransferReport:
    """Circuit transfer through one bridge."""

    bridge: str
    """Content id, as the following two."""
    dense: str
    sparse: str
    stage: str
    """The last stage of the bridge's fit: ridge, maps, joint or scratch."""
    circuits: list[str]
    """Content ids, in the order of the rows."""
    rows: list[Transfer]
    without_reads: list[str]
    """Tasks of further circuits, which read no channel, so that nothing can be moved."""


def transfer_stage(
    bridged: Bridged,
    circuits: Sequence[Circuit],
    config: TransferConfig,
    report: Report = silent,
    own: Task | None = None,
) -> TransferReport:
    """Ablate the reads of each circuit in the dense model of a bridge, on held-out pairs.

    `own` is as in `circuit_task`. Raises UserError, before anything is measured, for circuits of another model, and
    where none reads a channel.
    """
    shape, target, sparse = bridged.sparse.model.config, bridged.dense.target, bridged.sparse.model
    chosen, without = list[tuple[Circuit, Task, tuple[Read, ...]]](), list[str]()
    for circuit in circuits:
        bridged.check_circuit(circuit)
        task = circuit_task(circuit, own)
        reads = joined(bridged, circuit_reads(circuit.nodes, shape.n_layers, shape.d_model))
        if reads:
            chosen.append((circuit, task, reads))
        else:
            without.append(circuit.task)
    if not chosen:
        raise UserError(
            "None of the circuits reads a channel, so nothing can be moved; prune to a lower --target-loss."
        )
    decoder, rows, ids = bridged.decoder(), list[Transfer](), list[str]()
    done, total = 0, len(chosen) * (2 + 2 * config.draws)

    def tick() -> None:
        nonlocal done
        done += 1
        report(done, total, f"{len(rows)} of {len(chosen)} circuits")

    for circuit, task, reads in chosen:
        made = circuit.artifact
        assert made is not None
        batch = pairs_of(bridged, task, "heldout", config.pairs, config.seed)
        case = Case(task.name, target, sparse, decoder, batch)
        rows.append(transfer(case, reads, config.ablation, config.draws, config.seed, tick))
        ids.append(made.id)
    stored = bridged.stored.artifact
    dense, inner = bridged.dense.artifact.id, bridged.sparse.artifact.id
    return TransferReport(stored.id, dense, inner, bridged.stage, ids, rows, without)

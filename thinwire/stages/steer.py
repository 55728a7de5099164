"""From a bridge and a circuit of its sparse model to what steering does to the dense model."""

from collections.abc import Sequence

from torch import Tensor

from thinwire.bridge.curves import measure_curves, measure_points
from thinwire.bridge.reads import Read, circuit_reads
from thinwire.bridge.scan import best_reads, scan
from thinwire.bridge.steer import Steering
from thinwire.bridge.steer_config import DOSES, Dose, SteerConfig
from thinwire.bridge.steer_report import SteerReport
from thinwire.circuit import Circuit, circuit_task
from thinwire.data import Tokenizer
from thinwire.errors import UserError
from thinwire.progress import Report, silent
from thinwire.stages.bridged import Bridged
from thinwire.tasks import PairBatch, Task
from thinwire.tasks.splits import Split


def steer_stage(
    bridged: Bridged, circuit: Circuit, config: SteerConfig, report: Report = silent, own: Task | None = None
) -> SteerReport:
    """Steer the dense model of a bridge on held-out pairs of a circuit's task. `own` is as in `circuit_task`.

    Raises UserError for a circuit of another model, for one without reads to steer by, and for pairs that the
    tokenizer or the context cannot express.
    """
    bridged.check_circuit(circuit)
    task, seed = circuit_task(circuit, own), config.seed
    reads = chosen_reads(bridged, circuit, task, config)
    batch = pairs_of(bridged, task, "heldout", config.pairs, seed)
    by_dose: dict[Dose, Steering] = {dose: steering_on(bridged, batch, dose) for dose in _first(config.dose)}
    made = circuit.artifact
    assert made is not None
    return SteerReport(
        task=task.name,
        bridge=bridged.stored.artifact.id,
        dense=bridged.dense.artifact.id,
        sparse=bridged.sparse.artifact.id,
        circuit=made.id,
        stage=bridged.stage,
        split="heldout",
        n=len(batch),
        seed=seed,
        draws=config.draws,
        choice=config.reads,
        reads=[f"h_{read.point}:{read.channel}" for read in reads],
        answers=answers_of(batch, bridged.sparse.tokenizer),
        points=measure_points(by_dose[config.dose], reads, seed),
        curves=measure_curves(by_dose, reads, config, report),
    )


def _first(dose: Dose) -> list[Dose]:
    """Every dose, this one first."""
    return sorted(DOSES, key=lambda each: each != dose)


def chosen_reads(bridged: Bridged, circuit: Circuit, task: Task, config: SteerConfig) -> tuple[Read, ...]:
    """The reads to steer by. Raises UserError where there are none."""
    shape = bridged.sparse.model.config
    if config.reads == "scan":
        batch = pairs_of(bridged, task, "train", config.pairs, config.seed)
        slopes = scan(steering_on(bridged, batch, config.dose))
        reads = best_reads(slopes, config.top, [point for point in slopes if point >= config.first_point])
    else:
        found = circuit_reads(circuit.nodes, shape.n_layers, shape.d_model, later=config.reads == "circuit")
        reads = tuple(read for read in joined(bridged, found) if read.point >= config.first_point)
    if not reads:
        made = circuit.artifact
        where = made.path if made else circuit.task
        other = "" if config.reads == "scan" else ", or --reads scan, which finds reads by gradients"
        raise UserError(
            f"{where} has no reads to steer by from h_{config.first_point} on; give another circuit{other}."
        )
    return reads


def joined(bridged: Bridged, reads: Sequence[Read]) -> tuple[Read, ...]:
    """The reads at points that a junction of the bridge joins; not every dense model has one between sublayers."""
    points = {each.sparse for each in bridged.stored.bridge.junctions}
    return tuple(read for read in reads if read.point in points)


def pairs_of(bridged: Bridged, task: Task, split: Split, n: int, seed: int) -> PairBatch:
    """Pairs of a task that both models can take."""
    context = min(bridged.sparse.model.config.context, bridged.dense.target.context)
    return task.pairs(n, split, seed, bridged.sparse.tokenizer, context)


def steering_on(bridged: Bridged, batch: PairBatch, dose: Dose) -> Steering:
    """Both models recorded on pairs."""
    return Steering.of(bridged.dense.target, bridged.sparse.model, bridged.decoder(dose), batch)


def answers_of(batch: PairBatch, tokenizer: Tokenizer) -> tuple[str, str]:
    """The answers that the first and the second prompts are steered towards; empty where they differ between pairs."""

    def shared(answers: Tensor) -> str:
        ids: Sequence[int] = answers.unique().tolist()
        return tokenizer.token(ids[0]) if len(ids) == 1 and ids[0] >= 0 else ""

    n = len(batch)
    return shared(batch.foil[:n]), shared(batch.foil[n:])

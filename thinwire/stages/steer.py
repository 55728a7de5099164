"""From a bridge and a circuit of its sparse model to what steering does to the dense model."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from thinwire.bridge.curves import DOSES, Dose, Plan, measure_curves, measure_points
from thinwire.bridge.reads import Read, circuit_reads
from thinwire.bridge.scan import CANDIDATES, best_reads, scan
from thinwire.bridge.steer import Steering
from thinwire.bridge.steer_report import Choice, SteerReport
from thinwire.circuit import Circuit, circuit_task
from thinwire.data import Tokenizer
from thinwire.display import one_line
from thinwire.errors import UserError
from thinwire.progress import Report, silent
from thinwire.stages.bridged import Bridged
from thinwire.tasks import PairBatch, Task


@one_line
@dataclass(frozen=True)
class SteerPlan:
    """What to steer by, and how it is measured."""

    curves: Plan = Plan()
    pairs: int = 128
    """Held-out pairs that are steered; a scan gets as many training pairs."""
    choice: Choice = "circuit"
    top: int = CANDIDATES
    """Reads that a scan chooses."""
    first_point: int = 0
    """Reads of earlier points are left out, and a scan does not choose them."""
    dose: Dose = DOSES[0]
    """The dose whose curves have every control; the other one is reported beside it."""


def steer_stage(
    bridged: Bridged, circuit: Circuit, plan: SteerPlan = SteerPlan(), report: Report = silent, own: Task | None = None
) -> SteerReport:
    """Steer the dense model of a bridge on held-out pairs of a circuit's task. `own` is as in `circuit_task`.

    Raises UserError for a circuit of another model, for one without reads to steer by, and for pairs that the
    tokenizer or the context cannot express.
    """
    bridged.check_circuit(circuit)
    if not any(plan.curves.strengths):
        raise UserError("Every strength is 0, which changes nothing; give others, such as 0.5 and 1.")
    task, seed = circuit_task(circuit, own), plan.curves.seed
    reads = chosen_reads(bridged, circuit, task, plan)
    batch = pairs_of(bridged, task, "heldout", plan.pairs, seed)
    by_dose = {dose: steering_on(bridged, batch, dose) for dose in sorted(DOSES, key=lambda each: each != plan.dose)}
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
        draws=plan.curves.draws,
        choice=plan.choice,
        chosen_on="train",
        reads=[f"h_{read.point}:{read.channel}" for read in reads],
        answers=answers_of(batch, bridged.sparse.tokenizer),
        points=measure_points(by_dose[plan.dose], reads, seed),
        curves=measure_curves(by_dose, reads, plan.curves, report),
    )


def chosen_reads(bridged: Bridged, circuit: Circuit, task: Task, plan: SteerPlan) -> tuple[Read, ...]:
    """The reads to steer by. Raises UserError where there are none."""
    shape = bridged.sparse.model.config
    if plan.choice == "scan":
        batch = pairs_of(bridged, task, "train", plan.pairs, plan.curves.seed)
        slopes = scan(steering_on(bridged, batch, plan.dose))
        reads = best_reads(slopes, plan.top, [point for point in slopes if point >= plan.first_point])
    else:
        found = circuit_reads(circuit.nodes, shape.n_layers, shape.d_model, later=plan.choice == "circuit")
        reads = tuple(read for read in found if read.point >= plan.first_point)
    if not reads:
        made = circuit.artifact
        where = made.path if made else circuit.task
        other = "" if plan.choice == "scan" else ", or --reads scan, which finds reads by gradients"
        raise UserError(f"{where} has no reads to steer by from h_{plan.first_point} on; give another circuit{other}.")
    return reads


def pairs_of(bridged: Bridged, task: Task, split: str, n: int, seed: int) -> PairBatch:
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

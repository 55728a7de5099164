"""Checks of a circuit through a bridge: what ablating it, and steering by it, does to the dense model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from thinwire.bridge.curves import measure_curve
from thinwire.bridge.reads import Decoder, Read, circuit_reads
from thinwire.bridge.steer import Steering
from thinwire.bridge.steer_config import NODES, SteerConfig
from thinwire.bridge.steer_report import control_of
from thinwire.bridge.targets import Target
from thinwire.bridge.transfer import Case, Transfer, transfer
from thinwire.display import one_line
from thinwire.verify.checks import Check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import Condition
from thinwire.verify.measurement import Curve, Headline, Judgement, Measurement

OVER_RANDOM = 5.0
"""Ablated, a circuit has to cost the dense model so many times what random nodes of the same size cost it."""
TRANSFER = (
    "The circuit's reads are moved to their means in the dense model, through the bridge's decoder. A high loss says "
    "that the dense model uses what the circuit found. Random nodes that move its reads as far, at the same points, are"
    " the measure: a circuit passes with a loss of 5 times their 90th percentile."
)
ABLATED, STEERS = Headline("ablated in dense", "transfer_loss"), Headline("steers dense", "steering_ratio")
INTACT = "The dense model by itself."
STEERING = (
    "The circuit's reads are moved by what the other prompt of a pair changes in them, through the bridge's decoder. "
    "The value says how many times likelier the other prompt's answer becomes at strength 1: the geometric mean over "
    "pairs, of the side where it is smaller. A circuit passes if its interval lies above the 90th percentile of random "
    "nodes."
)


@one_line
@dataclass(frozen=True)
class BridgeChecks:
    """The checks `transfer` and `steering` of circuits of a bridge's sparse model."""

    target: Target
    decoder: Decoder

    def all(self) -> list[Check]:
        """Both checks, for `verify`."""
        return [Check("transfer", 60, self.transfer), Check("steering", 61, self.steering)]

    def transfer(self, inputs: CheckInput) -> list[Measurement]:
        """Loss and accuracy of the dense model with the circuit ablated, and its loss intact."""
        config, reads = inputs.config, reads_of(inputs, self.decoder)
        draws = max(config.random_circuits, 1)
        case = Case(inputs.circuit.task, self.target, inputs.model, self.decoder, inputs.heldout)
        found = transfer(case, reads, draws=draws, seed=config.seed)
        condition = Condition(
            "transfer", "dense model, circuit ablated", "mean", found.n, budget=f"{draws} draws of random nodes"
        )
        loss = condition.loss(found.circuit.loss, found.circuit.loss_interval, TRANSFER)
        drawn = Curve("random nodes, by loss", tuple(range(1, draws + 1)), tuple(found.random_nodes))
        measured = Measurement(
            name="transfer.intact loss",
            title=condition.title,
            value=found.own.loss,
            unit="nats",
            n=found.n,
            interval=found.own.loss_interval,
            split=condition.split,
            ablation="none",
            meaning=INTACT,
        )
        return [
            replace(loss.judged(judge_transfer(found, reads)), headline=ABLATED, curve=drawn),
            condition.accuracy(found.circuit.accuracy, found.circuit.accuracy_interval),
            measured,
        ]

    def steering(self, inputs: CheckInput) -> list[Measurement]:
        """How many times likelier the other prompt's answer becomes, with its curve over strengths."""
        config, reads = inputs.config, reads_of(inputs, self.decoder)
        steer = SteerConfig(seed=config.seed, draws=max(config.random_circuits, 1))
        steering = Steering.of(self.target, inputs.model, self.decoder, inputs.heldout)
        steps = measure_curve(steering, reads, steer, full=False)
        reference = next(step for step in steps if step.strength == steer.reference)
        side = min(reference.sides, key=lambda each: each.ratio.value)
        random = control_of(reference, NODES).high
        passes = bool(reads) and side.ratio.interval.low > random
        drawn = f"90 % of {steer.draws} draws of random nodes stay below {random:.2f} times"
        reason = drawn if reads else "the circuit reads no channel"
        measured = Measurement(
            name="steering.ratio",
            title="dense model, steered by the circuit",
            value=side.ratio.value,
            unit="times",
            n=len(inputs.heldout),
            interval=side.ratio.interval,
            split="heldout",
            ablation="exchange",
            meaning=STEERING,
        ).judged(Judgement("pass" if passes else "fail", reason))
        strengths, ratios = zip(*((step.strength, step.smaller) for step in steps), strict=True)
        curve = Curve("over strengths 0 to 4", strengths, ratios)
        return [replace(measured, headline=STEERS, curve=curve)]


def judge_transfer(found: Transfer, reads: Sequence[Read]) -> Judgement:
    """Whether the circuit costs the dense model clearly more than random nodes do."""
    if not reads:
        return Judgement("fail", "the circuit reads no channel")
    reason = f"{found.over_random:.1f} times the 90th percentile of random nodes, {found.nodes_high:.3f}"
    return Judgement("pass" if found.over_random >= OVER_RANDOM else "fail", reason)


def reads_of(inputs: CheckInput, decoder: Decoder) -> tuple[Read, ...]:
    """The reads of the circuit and every later read of the channels that it writes, at points that the bridge joins."""
    shape = inputs.model.config
    found = circuit_reads(inputs.circuit.nodes, shape.n_layers, shape.d_model)
    return tuple(read for read in found if read.point in decoder.to_dense)

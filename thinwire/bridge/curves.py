"""Steering in numbers: what each strength does to either side of a task's pairs, beside controls of the same size."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from pydantic import with_config

from thinwire.bridge.reads import Read
from thinwire.bridge.steer import Moves, Steered, Steering
from thinwire.bridge.steer_config import CONTROLS, DIRECTIONS, NODES, SHUFFLED, Dose, SteerConfig
from thinwire.config import STRICT
from thinwire.display import one_line
from thinwire.progress import Report, silent
from thinwire.verify.intervals import bootstrap, wilson
from thinwire.verify.measurement import Interval

Part = Literal["all", "h_0", "later"]
PARTS: tuple[Part, ...] = get_args(Part)
"""All reads; those at h_0, which is a substitution of tokens; and those from h_1 on."""
HIGH = 0.9
"""Quantile over draws that stands for what a control reaches."""


@with_config(STRICT)
@dataclass(frozen=True)
class Measured:
    """A mean over the pairs of one side, with its 95 % interval."""

    value: float
    interval: Interval


@with_config(STRICT)
@dataclass(frozen=True)
class Effect:
    """What steering did on one side, towards the answer of the other prompt of each pair."""

    probability: float
    """Of that answer with steering, mean over pairs."""
    log_odds: Measured
    """Shift of that answer's log-odds over the prompt's own answer, nats; bootstrap over pairs."""
    ratio: Measured
    """Geometric mean of the factor by which that answer's probability grows; bootstrap over pairs."""
    flips: Measured
    """Share of the pairs in which that answer becomes the likelier one; Wilson's interval."""


@with_config(STRICT)
@dataclass(frozen=True)
class Control:
    """Moves of the same size without the circuit, drawn several times."""

    kind: str
    """`random nodes`, `random directions` or `shuffled bridge`."""
    ratios: tuple[list[float], list[float]]
    """`Effect.ratio` of either side, one a draw, in the order of the draws."""
    probabilities: tuple[list[float], list[float]]
    """`Effect.probability`, likewise."""

    @property
    def high(self) -> float:
        """The 90th percentile over draws of the ratio of the side where it is larger."""
        return max(quantile(side) for side in self.ratios)


@with_config(STRICT)
@dataclass(frozen=True)
class Step:
    """One strength. Sides are towards the answers of the second prompts, then of the first."""

    strength: float
    sides: tuple[Effect, Effect]
    controls: list[Control]
    """Those that were drawn at this strength."""

    @property
    def smaller(self) -> float:
        """The ratio of the side where it is smaller."""
        return min(side.ratio.value for side in self.sides)


@one_line
@with_config(STRICT)
@dataclass(frozen=True)
class Curve:
    """Some of the chosen reads at one dose, over strengths."""

    dose: Dose
    part: Part
    reads: int
    steps: list[Step]

    def at(self, strength: float) -> Step:
        """The step at a strength, which is among those measured."""
        return next(step for step in self.steps if step.strength == strength)


@one_line
@with_config(STRICT)
@dataclass(frozen=True)
class AtPoint:
    """The chosen reads at one point alone, and what the dense model's own difference there does, at strength 1."""

    point: int
    reads: int
    sides: tuple[Effect, Effect]
    own: tuple[Effect, Effect]
    """What the difference of the dense model's own read does, in all of its channels."""


def quantile(values: Sequence[float]) -> float:
    """The 90th percentile of some values, interpolated."""
    return float(np.quantile(values, HIGH))


def reads_in(part: Part, reads: Sequence[Read]) -> tuple[Read, ...]:
    """The reads of a part."""
    return tuple(read for read in reads if part == "all" or (read.point == 0) == (part == "h_0"))


def effect(side: Steered, seed: int) -> Effect:
    """The numbers of one side; `seed` is that of the bootstrap."""

    def mean(values: torch.Tensor, read: Callable[[float], float] = float) -> Measured:
        ends = bootstrap(values, seed)
        return Measured(read(float(values.double().mean())), Interval(read(ends.low), read(ends.high)))

    flips = float(side.flips.double().mean())
    return Effect(
        probability=float(side.log_probabilities.double().exp().mean()),
        log_odds=mean(side.log_odds),
        ratio=mean(side.log_ratios, math.exp),
        flips=Measured(flips, wilson(flips, len(side.flips))),
    )


def measure_curve(
    steering: Steering, reads: Sequence[Read], config: SteerConfig, full: bool, tick: Callable[[], None] = lambda: None
) -> list[Step]:
    """Steer along some reads at every strength.

    Random nodes are drawn at the reference strength; with `full` at every strength, and the other controls at the
    reference strength. `tick` is called after every pass of the dense model.
    """
    moves = steering.moves(reads)
    drawn = _draws(steering, reads, moves, config, CONTROLS if full else (NODES,))
    steps = []
    for strength in config.strengths:
        sides = steering.along(moves, strength)
        tick()
        here = strength == config.reference
        kinds = [kind for kind in drawn if strength and (here or (full and kind == NODES))]
        controls = [_control(steering, kind, drawn[kind], strength, tick) for kind in kinds]
        steps.append(Step(strength, (effect(sides[0], config.seed), effect(sides[1], config.seed)), controls))
    return steps


def _draws(
    steering: Steering, reads: Sequence[Read], moves: Moves, config: SteerConfig, kinds: Sequence[str]
) -> dict[str, list[Moves]]:
    """Moves of the controls, by kind; the same seed gives the same."""
    generator = torch.Generator().manual_seed(config.seed)
    make = {
        NODES: partial(steering.random_nodes, reads, moves, generator),
        DIRECTIONS: partial(steering.random_direction, moves, generator),
        SHUFFLED: partial(steering.shuffled, reads, moves, generator),
    }
    return {kind: [make[kind]() for _ in range(config.draws)] for kind in kinds if config.draws}


def _control(
    steering: Steering, kind: str, draws: Sequence[Moves], strength: float, tick: Callable[[], None]
) -> Control:
    ratios: tuple[list[float], list[float]] = [], []
    probabilities: tuple[list[float], list[float]] = [], []
    for moves in draws:
        for at, side in enumerate(steering.along(moves, strength)):
            ratios[at].append(side.ratio)
            probabilities[at].append(float(side.log_probabilities.double().exp().mean()))
        tick()
    return Control(kind, ratios, probabilities)


def measure_curves(
    by_dose: dict[Dose, Steering], reads: Sequence[Read], config: SteerConfig, report: Report = silent
) -> list[Curve]:
    """The curve of every dose and part that has reads; the first dose's of all reads, with all controls, is first."""
    chosen: list[tuple[Dose, Part, tuple[Read, ...]]] = []
    for dose in by_dose:
        for part in PARTS:
            some = reads_in(part, reads)
            if some and (part == "all" or len(some) < len(reads)):
                chosen.append((dose, part, some))
    done, total = 0, config.passes(len(chosen))

    def tick() -> None:
        nonlocal done
        done += 1
        report(min(done, total), total, "passes of the dense model")

    return [
        Curve(dose, part, len(some), measure_curve(by_dose[dose], some, config, full=i == 0, tick=tick))
        for i, (dose, part, some) in enumerate(chosen)
    ]


def measure_points(steering: Steering, reads: Sequence[Read], seed: int = 0) -> list[AtPoint]:
    """The reads of every point alone, and the dense model's own difference there."""
    found = []
    for point in sorted({read.point for read in reads}):
        here = [read for read in reads if read.point == point]
        ours, own = steering.along(steering.moves(here)), steering.along(steering.own(here))
        effects = [(effect(one, seed), effect(two, seed)) for one, two in (ours, own)]
        found.append(AtPoint(point, len(here), effects[0], effects[1]))
    return found

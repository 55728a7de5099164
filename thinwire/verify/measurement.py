"""One measured number of a verdict, with everything that a reader needs to judge it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import with_config

from thinwire.config import STRICT
from thinwire.display import one_line

Status = Literal["pass", "warn", "fail", "info"]
"""Whether a measurement meets the threshold that its check states; info where a check states none."""


CHANCE = 0.5
"""Accuracy of guessing between two answers."""


@with_config(STRICT)
@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval, in the unit of its measurement."""

    low: float
    high: float

    @property
    def above_chance(self) -> bool:
        """Of an accuracy: whether the interval lies above what guessing reaches."""
        return self.low > CHANCE


@one_line
@with_config(STRICT)
@dataclass(frozen=True)
class Curve:
    """The values behind a measurement, such as one per random circuit, or a loss over steps."""

    x_label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    """One value per x, in the unit of the measurement."""
    labels: tuple[str, ...] = ()
    """What each x stands for, where that is no number, such as the name of a node; none where it is one."""

    def __post_init__(self) -> None:
        if not self.x or len(self.x) != len(self.y):
            raise ValueError("a curve needs one y for each x, and at least one")
        if len(self.labels) not in (0, len(self.x)):
            raise ValueError("a curve has a label for each x, or none")

    @classmethod
    def named(cls, x_label: str, values: Mapping[str, float]) -> "Curve":
        """A curve over things that have names, at 1, 2 and so on."""
        return cls(x_label, tuple(map(float, range(1, len(values) + 1))), tuple(values.values()), tuple(values))


@with_config(STRICT)
@dataclass(frozen=True)
class Headline:
    """How tables of several circuits show a measurement."""

    column: str
    """Title of its column, another for each measurement of a verdict."""
    key: str
    """Its name among the flat values of `--json`, likewise; none of the verdict's own, such as `nodes`."""


@dataclass(frozen=True)
class Judgement:
    """A status and the reason for it."""

    status: Status
    reason: str
    """A few words, such as `meets the target of 0.150`."""


@with_config(STRICT)
@dataclass(frozen=True)
class Threshold:
    """What a value has to be at most, or at least, to pass."""

    limit: float
    at_most: bool = True

    def met(self, value: float) -> bool:
        """Whether a value passes."""
        return value <= self.limit if self.at_most else value >= self.limit

    def strain(self, value: float) -> float:
        """How near a value comes to the limit: 1 at the limit, more beyond it, 0 at the best value.

        The best value is 0 where little is wanted, 1 where much of a share is, and without bound otherwise.
        """
        if self.at_most:
            return value / self.limit if self.limit else value + 1
        if self.limit < 1:
            return (1 - value) / (1 - self.limit)
        return self.limit / value if value > 0 else float("inf")

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.limit:.4g}"


@one_line
@with_config(STRICT)
@dataclass(frozen=True)
class Measurement:
    """One number that a check measured."""

    name: str
    """Name of the check, a dot, and what was measured: `sufficiency.loss`."""
    title: str
    """What readers call the thing measured, equal for all measurements of a check: `circuit alone`."""
    value: float
    unit: str
    """`nats` for losses; `fraction` for shares between 0 and 1."""
    n: int
    """Pairs that the value is measured on."""
    interval: Interval | None
    split: str
    """Split of the task that the pairs come from."""
    ablation: str
    """What removed nodes are set to, as in `PruneConfig.ablation`; `none` where nothing is removed."""
    meaning: str
    """What was measured and how to read it, in full sentences."""
    budget: str | None = None
    """What the check spent, where spending more could change the value: `20 random circuits`."""
    status: Status = "info"
    reason: str = ""
    """Why the status is what it is, in a few words; empty where it is `info`."""
    headline: Headline | None = None
    """None keeps the measurement out of tables of several circuits."""
    curve: Curve | None = None
    threshold: Threshold | None = None
    """What the value is held against; None where the check states no threshold for it."""

    def __post_init__(self) -> None:
        if "" in self.name.partition("."):
            raise ValueError(f"{self.name} is not a measurement's name; write `check.quantity`")

    @property
    def check(self) -> str:
        """Name of the check."""
        return self.name.partition(".")[0]

    @property
    def quantity(self) -> str:
        """What was measured: `loss`."""
        return self.name.partition(".")[2]

    @property
    def number(self) -> str:
        """The value for reading, without its unit."""
        return written(self.value, self.unit)

    @property
    def texts(self) -> tuple[str, str, str]:
        """The value with its unit, the interval, and the number of pairs, for a row of a table."""
        value = self.number if self.unit == "fraction" else f"{self.number} {self.unit}"
        ends = (self.interval.low, self.interval.high) if self.interval else ()
        return value, " … ".join(written(end, self.unit) for end in ends), f"{self.n:,}"

    def judged(self, judgement: Judgement) -> "Measurement":
        """The same measurement with a status and the reason for it."""
        return replace(self, status=judgement.status, reason=judgement.reason)

    def held_against(self, threshold: Threshold, miss: Status = "fail") -> "Measurement":
        """The same measurement judged by a threshold; a value that misses it has the status `miss`."""
        met = threshold.met(self.value)
        beyond = ("at most" if met else "above") if threshold.at_most else ("at least" if met else "below")
        reason = f"{beyond} {threshold.limit:.4g}{f' {self.unit}' if self.unit != 'fraction' else ''}"
        return replace(self, threshold=threshold, status="pass" if met else miss, reason=reason)

    @property
    def strain(self) -> float | None:
        """How near the value comes to its threshold, see `Threshold.strain`; None without one."""
        return None if self.threshold is None else self.threshold.strain(self.value)

    def row(self) -> dict[str, object]:
        """The measurement as one flat row for JSON."""
        return {
            "name": self.name,
            "ablation": self.ablation,
            "split": self.split,
            "value": self.value,
            "unit": self.unit,
            "n": self.n,
            "low": self.interval.low if self.interval else None,
            "high": self.interval.high if self.interval else None,
            "status": self.status,
            "threshold": None if self.threshold is None else str(self.threshold),
            "budget": self.budget,
            "column": self.headline.column if self.headline else None,
        }


def written(value: float, unit: str) -> str:
    """A value for reading: losses and fractions with three decimals, so that columns compare."""
    return f"{value:.3f}" if unit in ("nats", "fraction") else f"{value:.4g}"

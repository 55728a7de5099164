"""What a page shows of a verdict and of the heads' attention: the parts of the payload that come from checks."""

from typing import Literal, Self

from pydantic import Field, model_validator

from thinwire.config import Config

Status = Literal["pass", "warn", "fail", "info"]


class Record(Config):
    """Base of the payload's records: strict and frozen, without NaN and infinity, which JSON cannot carry."""


class CurveView(Record):
    """The values behind a measurement."""

    x_label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    """One value per x, in the unit of the measurement."""
    labels: tuple[str, ...] = ()
    """What each x stands for, where that is no number."""

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        if not self.x or len(self.x) != len(self.y) or len(self.labels) not in (0, len(self.x)):
            raise ValueError("a curve needs one y for each x, and at least one; and a label for each, or none")
        return self


class MeasurementView(Record):
    """One measured number of a verdict; `thinwire.verify.Measurement` describes the fields."""

    check: str
    """Measurements of the same check stand side by side and are shown together."""
    title: str
    quantity: str
    """What was measured: `loss`."""
    value: float
    unit: str
    """`nats`, `fraction` (shown in percent) or any other."""
    n: int = Field(ge=0)
    """Pairs that the value is measured on."""
    low: float | None = None
    """Lower end of the 95 % confidence interval."""
    high: float | None = None
    split: str
    ablation: str
    budget: str | None = None
    limit: float | None = None
    """What the value is held against; None where the check states no threshold for it."""
    at_most: bool = True
    """Whether values up to the limit pass; otherwise those from it on."""
    status: Status = "info"
    reason: str = ""
    meaning: str
    curve: CurveView | None = None

    @model_validator(mode="after")
    def _whole_interval(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval needs both ends")
        return self


class VerdictView(Record):
    """What the checks say together; `thinwire.verify.claims` decides it."""

    word: str
    """Such as `sufficient under mean ablation only`."""
    status: Status
    weakest: tuple[int, ...] = ()
    """Indices of the measurements that miss their thresholds by most or meet them most narrowly, worst first."""
    deciding: tuple[int, ...] = ()
    """Index of the measurement that decides each check, in the order of the checks."""


class HeadView(Record):
    """What a kept head attends to at the last token of a prompt, in the circuit and in the whole model."""

    layer: int = Field(ge=0)
    head: int = Field(ge=0)
    status: Status
    reason: str
    """How the two patterns compare, in a few words."""
    distance: tuple[float, float]
    """Total variation between the two, per side of the task: the mean over its `prompts` prompts."""
    circuit_uneven: tuple[float, float]
    """Total variation of the circuit's pattern from equal weights on all tokens, likewise."""
    model_uneven: tuple[float, float]
    prompts: int = Field(ge=1)
    sink: bool
    """Whether the last weight of a row is that of the sink."""
    circuit: tuple[tuple[float, ...], ...] = ()
    """Weights of each example prompt's tokens, in the order of `NodeView.on_prompts`; empty where not kept."""
    model: tuple[tuple[float, ...], ...] = ()

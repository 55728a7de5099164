"""Monitoring a run: progress, what is measured besides the losses, and where the numbers go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from pydantic import Field, model_validator

from thinwire.config import Config
from thinwire.progress import Report, silent

if TYPE_CHECKING:
    from thinwire.model.transformer import Transformer


class WatchConfig(Config):
    """What is measured besides the losses. It changes no weight, so it may change when a run is resumed."""

    tasks: tuple[str, ...] = ()
    """Tasks whose loss and accuracy on validation pairs go into metrics.jsonl at every validation."""
    pairs: int = Field(default=256, ge=1, le=100_000)
    """Pairs that a task is scored on."""
    circuits: tuple[str, ...] = ()
    """Tasks whose circuits are pruned while the model trains, into MODEL-forming/STEP/circuits."""
    circuits_at: tuple[int, ...] = ()
    """Steps after which they are pruned; each leaves a model in MODEL-forming/STEP/model."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the pairs."""

    @model_validator(mode="after")
    def _circuits_have_steps(self) -> Self:
        if bool(self.circuits) != bool(self.circuits_at):
            raise ValueError("circuits and circuits_at go together: the tasks to prune, and the steps to prune them at")
        if min(self.circuits_at, default=1) < 1:
            raise ValueError("circuits_at names a step before the first; steps count from 1")
        return self


class Watcher(Protocol):
    """Measures the model at some steps; must not change it, nor the state of any random number generator."""

    def due(self, step: int) -> bool:
        """Whether it measures the model after this step."""
        ...

    def __call__(self, step: int, model: "Transformer") -> Mapping[str, object]:
        """Values for a line of metrics.jsonl: numbers, texts, and mappings of them; the same for the same model."""
        ...


@dataclass(frozen=True)
class Monitoring:
    """Who follows a run. Nothing here changes a weight."""

    report: Report = silent
    """Is called with the progress after every step."""
    watchers: Sequence[Watcher] = ()
    """Measure the model at some steps; their values go into metrics.jsonl."""
    track: Sequence[str] = ()
    """Sinks of all numbers besides metrics.jsonl, by name: `tensorboard`, `wandb`."""


UNMONITORED = Monitoring()
"""No progress, no watchers, metrics.jsonl only."""

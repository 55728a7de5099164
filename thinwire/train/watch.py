"""Watching a run: what else is measured while it trains, by watchers that later rooms supply."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, Self

from pydantic import Field, model_validator

from thinwire.config import Config

if TYPE_CHECKING:
    from thinwire.model.transformer import Transformer


class WatchConfig(Config):
    """What is measured besides the losses. It changes no weight, so it may differ from session to session of a run."""

    tasks: tuple[str, ...] = ()
    """Tasks whose loss and accuracy on validation pairs go into metrics.jsonl at every validation."""
    pairs: int = Field(default=256, ge=1, le=100_000)
    """Pairs that a task's score is taken over."""
    circuits: tuple[str, ...] = ()
    """Tasks whose circuits are pruned while the model trains, into MODEL-forming/STEP/circuits."""
    circuits_at: tuple[int, ...] = ()
    """Steps after which that happens; each leaves a model in MODEL-forming/STEP/model."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the pairs."""

    @model_validator(mode="after")
    def _circuits_have_their_steps(self) -> Self:
        if bool(self.circuits) != bool(self.circuits_at):
            raise ValueError("circuits and circuits_at go together: the tasks to prune, and the steps to prune them at")
        if min(self.circuits_at, default=1) < 1:
            raise ValueError("circuits_at names a step before the first; steps count from 1")
        return self


class Watcher(Protocol):
    """Measures a model now and then; must leave it, and every source of random numbers, as they were."""

    def due(self, step: int) -> bool:
        """Whether it wants to see the model after this step."""
        ...

    def __call__(self, step: int, model: "Transformer") -> Mapping[str, object]:
        """Values for a line of metrics.jsonl: numbers, texts and mappings of them, the same whenever asked again."""
        ...

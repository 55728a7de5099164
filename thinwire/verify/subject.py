"""What is checked: a circuit, its model, and pairs that pruning never used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from pydantic import with_config
from torch import Tensor

from thinwire.circuit import Circuit
from thinwire.config import STRICT
from thinwire.model.taps import Tap, ablate, identity
from thinwire.model.transformer import Transformer
from thinwire.registry import Registry
from thinwire.sites import Site
from thinwire.tasks import PairBatch, last_logits, margin, margin_losses
from thinwire.verify.config import VerifyConfig


@with_config(STRICT)
@dataclass(frozen=True)
class Row:
    """One line of a verdict."""

    name: str
    meaning: str
    """One sentence that says what was measured and how to read it."""
    loss: float
    """Task loss, nats per sequence."""
    accuracy: float
    losses: tuple[float, ...] = field(default=())
    """Where the row sums up several measurements (it then gives their median): each of them."""


@dataclass(frozen=True)
class Subject:
    """A circuit on the bench."""

    model: Transformer
    circuit: Circuit
    heldout: PairBatch
    """Pairs whose templates and names no stage of pruning saw."""
    fit: PairBatch
    """Pairs of the train split, to fit calibrations of other circuits on."""
    config: VerifyConfig

    @torch.no_grad()
    def margins(self, batch: PairBatch, tap: Tap = identity, model: Transformer | None = None) -> Tensor:
        """Log-odds of the right answers [2n] of a batch under a tap, not calibrated; `model` stands in for the own."""
        norms = self.circuit.norms(self.model, batch)
        return margin(last_logits(model or self.model, batch, tap=tap, norms=norms), batch)

    def kept_margins(self, batch: PairBatch, keep: Mapping[Site, Tensor]) -> Tensor:
        """The same with all but the kept nodes at their means."""
        return self.margins(batch, ablate(keep, self.circuit.means))


def row(name: str, meaning: str, margins: Tensor) -> Row:
    """A row from the margins [2n] of one measurement."""
    return Row(name, meaning, margin_losses(margins).mean().item(), (margins > 0).float().mean().item())


CHECKS: Registry[Callable[[Subject], Row]] = Registry("check")
"""What makes each row of a verdict; a further row is one such function in one file."""

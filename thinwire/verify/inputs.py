"""What a check gets: a circuit, its model, and pairs that pruning never used."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from thinwire.circuit import Calibration, Circuit
from thinwire.config import read_record
from thinwire.data.tokenizer import Tokenizer
from thinwire.display import one_line
from thinwire.model.taps import Tap, ablate, identity
from thinwire.model.transformer import Transformer
from thinwire.prune.calibrate import fit_calibration
from thinwire.prune.config import Ablation
from thinwire.sites import Site
from thinwire.tasks import PairBatch, Task, last_logits, margin
from thinwire.verify.config import VerifyConfig


@one_line
@dataclass(frozen=True)
class CheckInput:
    """A circuit to check, its model, and the pairs to check it on."""

    model: Transformer
    circuit: Circuit
    heldout: PairBatch
    """Pairs whose templates and names no stage of pruning saw."""
    fit: PairBatch
    """Pairs of the train split, to fit calibrations of other circuits on."""
    config: VerifyConfig
    ablation: Ablation = "mean"
    """What `circuit.means` holds: what the circuit was pruned with."""
    pretraining: Tensor | None = None
    """Held-out pretraining sequences, int64 [rows, pos]; None where no tokens are given."""
    task: Task | None = None
    """The circuit's task; None where the pairs are all that is known."""
    tokenizer: Tokenizer | None = None
    """The model's tokenizer, to draw further pairs of the task with; None where there is none."""

    @property
    def target_loss(self) -> float | None:
        """The task loss that the circuit was pruned to reach, nats; None for circuits that were not pruned to one."""
        return self.circuit.scores.target_loss if self.circuit.scores else None

    @cached_property
    def cut(self) -> Transformer:
        """The model without the weights between kept nodes that are not kept edges: see `Circuit.cut_model`."""
        return self.circuit.cut_model(self.model)

    @cached_property
    def exchanged(self) -> PairBatch:
        """The held-out pairs on which nodes outside the circuit take values of other sequences."""
        return self.first(self.config.exchange_pairs)

    @property
    def calibration(self) -> Calibration:
        """The circuit's scale and shift of the log-odds."""
        return self.circuit.calibration

    def refitted(self, margins: Tensor) -> Tensor:
        """Margins [2n] under the scale and shift that suit themselves best, the scale bounded as the config says.

        Fitted on the pairs that are measured, so that no offset alone makes a circuit look wrong.
        """
        return fit_calibration(margins, self.config.max_logit_scale).apply(margins)

    @torch.no_grad()
    def margins(self, batch: PairBatch, tap: Tap = identity, model: Transformer | None = None) -> Tensor:
        """Log-odds of the right answers of a batch of n pairs under a tap, not calibrated. float32 [2n]

        Rows 0 … n - 1 are the first sides of the pairs, rows n … 2n - 1 the second. `model` replaces the whole model.
        """
        norms = self.circuit.norms(self.model, batch)
        return margin(last_logits(model or self.model, batch, tap=tap, norms=norms), batch)

    @torch.no_grad()
    def alone(self) -> Tensor:
        """The margins [2n] of the held-out pairs with only the circuit, not calibrated."""
        return self._alone

    @cached_property
    def _alone(self) -> Tensor:
        return self.margins(self.heldout, self.circuit.to_tap(), self.cut)

    @cached_property
    def whole(self) -> Tensor:
        """The margins [2n] of the held-out pairs in the whole model."""
        return self.margins(self.heldout)

    def first(self, count: int) -> PairBatch:
        """The first pairs of the held-out ones, so many or all: for checks that cost more a pair."""
        return self.heldout.take(torch.arange(min(len(self.heldout), count), dtype=torch.int64, device="cpu"))

    def kept_margins(self, batch: PairBatch, keep: Mapping[Site, Tensor]) -> Tensor:
        """The margins [2n] with every node ablated except the kept ones; `keep` is bool [width] per site."""
        return self.margins(batch, ablate(keep, self.circuit.means))


class _Pruned(BaseModel):
    """The one field of a circuit's config that checks need."""

    model_config = ConfigDict(frozen=True)
    ablation: Ablation = "mean"


def ablation_of(circuit: Circuit) -> Ablation:
    """What a circuit's removed nodes are set to; the mean for a circuit that does not come from an artefact.

    Raises UserError when the artefact's config cannot be read.
    """
    if circuit.artifact is None:
        return "mean"
    path = circuit.artifact.file("config.json")
    return read_record(_Pruned, path, f"{path} is not the config of a circuit; prune again.").ablation

"""Does the circuit survive other values outside? Nodes outside it take those of another pair, not their means."""

from dataclasses import replace

import torch
from torch import Tensor

from thinwire.model.taps import ablate, record
from thinwire.model.transformer import Transformer
from thinwire.sites import Site
from thinwire.tasks import PairBatch
from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import Condition, mean_accuracy, mean_loss
from thinwire.verify.measurement import Headline, Judgement, Measurement

PAIRS_AT_ONCE = 64
"""Pairs that are measured together: the values of all sites at all positions are held for them."""
THRESHOLD = 0.3
"""Loss in nats up to which the check passes."""
MEANING = (
    "Only the circuit is left, and every other node has its value in a prompt of another pair, of either side, aligned "
    "at the last token. The log-odds are calibrated as for the circuit alone. A loss far above that of the circuit "
    f"alone means that the nodes outside the circuit change the answer. It passes up to {THRESHOLD} nats."
)


@check("resample", order=15)
def resample(inputs: CheckInput) -> list[Measurement]:
    """Loss and accuracy of the circuit with the nodes outside it exchanged for those of another pair."""
    n, generator = len(inputs.heldout), torch.Generator().manual_seed(inputs.config.seed)
    condition = Condition("resample", "other pair's values outside", "resample", n)
    cut, margins = inputs.circuit.cut_model(inputs.model), torch.empty(2, n, dtype=torch.float32, device="cpu")
    order = torch.randperm(n, generator=generator, dtype=torch.int64, device="cpu")
    for pairs in order.chunk(-(-n // PAIRS_AT_ONCE)):  # of at least two pairs
        margins[:, pairs] = _margins(inputs, inputs.heldout.take(pairs), cut, generator).unflatten(0, (2, -1))
    loss = mean_loss(margins.flatten(), condition, MEANING, inputs.config.seed)
    passes = loss.value <= THRESHOLD
    reason = f"{'at most' if passes else 'above'} {THRESHOLD} nats"
    loss = loss.judged(Judgement("pass" if passes else "warn", reason))
    return [
        replace(loss, headline=Headline("other pair", "resample_loss")),
        mean_accuracy(margins.flatten(), condition),
    ]


def _margins(inputs: CheckInput, batch: PairBatch, cut: Transformer, generator: torch.Generator) -> Tensor:
    """Calibrated margins [2n] of a batch of n pairs, each with values of the next pair outside the circuit."""
    circuit = inputs.circuit
    keep = {site: mask for site, mask in circuit.keep.items() if not mask.all()}
    values = _exchanged(inputs, batch, list(keep), generator)
    margins = inputs.margins(batch, ablate(keep, values), cut)
    return circuit.calibration.apply(margins)


@torch.no_grad()
def _exchanged(
    inputs: CheckInput, batch: PairBatch, sites: list[Site], generator: torch.Generator
) -> dict[Site, Tensor]:
    """The values of some sites in a prompt of the next pair, of either side at random, aligned at the last token.

    Each is [2n, pos, width]. Positions before the other prompt take its first position.
    """
    seen = record(sites)
    inputs.model.run(inputs.model.embed(batch.tokens), tap=seen)
    n = len(batch)
    side = torch.randint(2, (2, n), generator=generator, dtype=torch.int64, device="cpu")
    donors = (torch.arange(n, dtype=torch.int64, device="cpu").roll(1) + n * side).flatten()
    positions = torch.arange(batch.tokens.shape[1], dtype=torch.int64, device="cpu")
    positions = positions + (batch.last[donors] - batch.last)[:, None]
    positions = positions.clamp(min=0).minimum(batch.last[donors][:, None])
    return {site: seen.values[site][donors[:, None], positions] for site in sites}

"""Does the circuit survive other values outside? Nodes outside take those of other sequences, not their means."""

from dataclasses import dataclass, replace

from torch import Tensor

from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import Condition, auc, mean_accuracy, mean_loss
from thinwire.verify.measurement import Headline, Measurement, Threshold
from thinwire.verify.outside import Donor, margins_under, other_pair, other_side, scattered, sequences
from thinwire.verify.thresholds import EXCHANGED_AUC, EXCHANGED_LOSS, PRETRAINING_LOSS

MEANING = (
    "Only the circuit is left, and every other node has its value in {}. The log-odds are calibrated as for the "
    "circuit alone. A loss far above that of the circuit alone means that the nodes outside it change the answer."
)


@dataclass(frozen=True)
class Exchange:
    """One kind of values for the nodes outside."""

    name: str
    title: str
    source: str
    """Where the values come from, for the sentence in MEANING."""
    loss: Threshold
    headline: Headline | None = None

    def measure(self, inputs: CheckInput, donor: Donor) -> list[Measurement]:
        """Calibrated loss and accuracy, and AUC, with the nodes outside at the donor's values."""
        own, seed = margins_under(inputs, donor), inputs.config.seed
        margins = inputs.calibration.apply(own)
        condition = Condition(self.name, self.title, self.name, len(inputs.exchanged))
        loss = mean_loss(margins, condition, MEANING.format(self.source), seed).held_against(self.loss)
        return [
            replace(loss, headline=self.headline),
            auc(own, condition, seed).held_against(EXCHANGED_AUC),
            mean_accuracy(margins, condition),
        ]


@check("resample", order=15)
def resample(inputs: CheckInput) -> list[Measurement]:
    """Nodes outside at their values in a prompt of another pair, of either side, aligned at the last token."""
    source = "a prompt of another pair, of either side, aligned at the last token"
    column = Headline("other pair", "resample_loss")
    return Exchange("resample", "other pair's values outside", source, EXCHANGED_LOSS, column).measure(
        inputs, other_pair
    )


@check("other_side", order=16)
def other_side_outside(inputs: CheckInput) -> list[Measurement]:
    """Nodes outside at their values in the other prompt of the same pair, aligned at the last token."""
    source = "the other prompt of the same pair, in which the other answer is right"
    return Exchange("other_side", "other side's values outside", source, EXCHANGED_LOSS).measure(inputs, other_side)


@check("pretraining", order=17, needs_tokens=True)
def pretraining(inputs: CheckInput) -> list[Measurement]:
    """Nodes outside at their values in held-out pretraining sequences, position by position."""
    source = "a stretch of a held-out pretraining sequence"
    exchange = Exchange("pretraining", "pretraining values outside", source, PRETRAINING_LOSS)
    return exchange.measure(inputs, sequences(_held_out(inputs)))


@check("scattered", order=18, needs_tokens=True)
def scattered_outside(inputs: CheckInput) -> list[Measurement]:
    """Nodes outside at their values at pretraining positions, drawn anew for every position of a prompt."""
    source = "a held-out pretraining sequence, at a position that is drawn anew for every position of the prompt"
    exchange = Exchange("scattered", "scattered values outside", source, PRETRAINING_LOSS)
    return exchange.measure(inputs, scattered(_held_out(inputs)))


def _held_out(inputs: CheckInput) -> Tensor:
    """Pretraining sequences int64 [rows, pos]."""
    assert inputs.pretraining is not None, "the check is left out where there are none"
    return inputs.pretraining

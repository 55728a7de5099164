"""How much of the model's preference does the circuit carry by itself, before any calibration?"""

from dataclasses import replace

import torch

from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.intervals import ratio_interval
from thinwire.verify.margins import Condition
from thinwire.verify.measurement import Headline, Measurement
from thinwire.verify.thresholds import SHARE

MEANING = (
    "The mean log-odds of the right answer with only the circuit, not calibrated, as a share of those of the whole "
    "model. Where it is small, the circuit only tips a balance, and the calibration supplies the rest."
)


@check("log_odds", order=13)
def log_odds(inputs: CheckInput) -> list[Measurement]:
    """The circuit's mean margin over that of the whole model."""
    condition = Condition("log_odds", "the circuit's log-odds", inputs.ablation, len(inputs.heldout))
    own, whole = (margins.unflatten(0, (2, -1)).mean(0) for margins in (inputs.alone(), inputs.whole))
    value = (own.mean() / whole.mean()).item() if whole.mean() else float(torch.sign(own.mean()))
    measured = condition.share(value, ratio_interval(own, whole, inputs.config.seed), MEANING)
    return [replace(measured.held_against(SHARE), headline=Headline("share", "share"))]

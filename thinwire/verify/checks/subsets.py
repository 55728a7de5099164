"""Does it matter which nodes outside are ablated? Random subsets of them stand at their own values."""

from dataclasses import replace

import torch

from thinwire.model.taps import ablate
from thinwire.tasks import auc_of, loss_of
from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import Condition, auc, averaged_loss
from thinwire.verify.measurement import Curve, Measurement
from thinwire.verify.thresholds import EXCHANGED_AUC, EXCHANGED_LOSS

SHARES = (0.25, 0.5, 0.75)
"""Probability that a node outside stands at its own value."""
DRAWS = 3
"""Subsets for each of them."""
PAIRS = 64
MEANING = (
    "Every node outside the circuit is ablated or left as it is, by one draw for all pairs, and the log-odds are "
    "calibrated as for the circuit alone. The value is the mean over draws. A loss far above that of the circuit alone "
    "means that it is right only as long as all the others are ablated together."
)
REFITTED = "The same loss where each draw has the scale and shift that suit it best: without what an offset costs."


@check("subsets", order=19)
def subsets(inputs: CheckInput) -> list[Measurement]:
    """Mean calibrated loss and AUC over random subsets of the nodes outside that stand at their own values.

    The intervals are over pairs: the losses of a pair are averaged over the draws, and its log-odds are those of the
    draw with the median AUC. The curve has the loss of each draw.
    """
    batch, circuit, seed = inputs.first(PAIRS), inputs.circuit, inputs.config.seed
    generator = torch.Generator().manual_seed(seed)
    draws, names = [], []
    for share in SHARES:
        for draw in range(DRAWS):
            keep = {
                site: mask | (torch.rand(mask.shape, generator=generator, dtype=torch.float32, device="cpu") < share)
                for site, mask in circuit.keep.items()
            }
            draws.append(inputs.margins(batch, ablate(keep, circuit.means), inputs.cut))
            names.append(f"{share:.0%} of them, draw {draw + 1}")
    budget = f"{len(draws)} draws: {', '.join(f'{share:.0%}' for share in SHARES)} of the nodes outside kept"
    condition = Condition("subsets", "random subsets outside ablated", inputs.ablation, len(batch), budget=budget)
    calibrated = [inputs.calibration.apply(own) for own in draws]
    losses = dict(zip(names, (loss_of(margins).item() for margins in calibrated), strict=True))
    middle = sorted(draws, key=lambda own: auc_of(own).item())[len(draws) // 2]
    loss = averaged_loss(calibrated, condition, MEANING, seed).held_against(EXCHANGED_LOSS)
    return [
        replace(loss, curve=Curve.named("draws", losses)),
        auc(middle, condition, seed).held_against(EXCHANGED_AUC),
        averaged_loss([inputs.refitted(own) for own in draws], condition, REFITTED, seed, "refitted loss"),
    ]

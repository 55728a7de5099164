"""How bad can it get? The nodes outside stand between their means and their own values, where it hurts most.

A node outside has a mask between 0, which ablates it, and 1, which leaves it as it is: one mask for all prompts and
positions. From random masks, steps along the sign of the gradient raise the loss. It is the loss under the calibration
that suits the pairs best at every step: against a fixed calibration an offset would do, and say nothing.
"""

from dataclasses import replace

import torch

from thinwire.verify.attack import Outside, attack
from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import Condition, mean_loss
from thinwire.verify.measurement import Curve, Measurement
from thinwire.verify.thresholds import ADVERSARIAL_LOSS

PAIRS, RESTARTS = 24, 3
STEPS, THOROUGH_STEPS = 20, 320
PARTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Parts of the way from the means to what the attack found, at which the loss is measured."""
MEANING = (
    "Every node outside the circuit stands between its mean and its own value, at a point that an attack chose for all "
    "prompts together so that the loss is largest under the scale and shift that then suit them best. The loss grows "
    "with the number of steps, up to 0.693 nats. A small one says that this attack found nothing, not that there is "
    "nothing to find."
)
ROUNDED = "The same loss with the masks rounded: every node outside is either ablated or left as it is."
ALONG = (
    "The largest loss on the straight line from the means to what the attack found. Where it is much larger than the "
    "loss at the end, the attack overshot, and a better one exists."
)
AGREEMENT = (
    "Correlation between what two restarts found, over the nodes that they moved; mean over pairs of restarts. Near 1 "
    "they found the same weak spot; near 0 there are many, or none."
)
LONGER = "The largest loss of a restart after more steps of the same attack. It carries no status."


@check("adversarial", order=26)
def adversarial(inputs: CheckInput) -> list[Measurement]:
    """Refitted loss of the worst restart after 20 steps, its curve over steps, and what would show a weak attack.

    With `thorough` the attack goes on to 320 steps; the status is that after 20.
    """
    batch, seed = inputs.first(PAIRS), inputs.config.seed
    outside = Outside(inputs, batch)
    found = attack(outside, STEPS, RESTARTS)
    condition = Condition("adversarial", "adversary outside", inputs.ablation, len(batch), budget=_budget(STEPS))
    worst = found.masks[found.worst]
    with torch.no_grad():
        ways = torch.stack([part * worst for part in PARTS] + [worst.round()])
        *along, rounded = (inputs.refitted(own) for own in outside.margins(ways))
    on_the_way = [mean_loss(margins, condition, ALONG, seed, "loss on the way") for margins in along]
    highest = max(on_the_way, key=lambda one: one.value)
    way = Curve("part of the way", PARTS, tuple(one.value for one in on_the_way))
    loss = mean_loss(along[-1], condition, MEANING, seed, "refitted loss").held_against(ADVERSARIAL_LOSS)
    measured = [
        replace(loss, curve=_over_steps(found.losses[:, found.worst])),
        mean_loss(rounded, condition, ROUNDED, seed, "rounded loss"),
        replace(highest, curve=way),
        condition.share(found.agreement, None, AGREEMENT, "agreement of restarts"),
    ]
    return [*measured, _longer(outside, condition)] if inputs.config.thorough else measured


def _longer(outside: Outside, condition: Condition) -> Measurement:
    """The loss after THOROUGH_STEPS."""
    found = attack(outside, THOROUGH_STEPS, RESTARTS)
    spent, seed = replace(condition, budget=_budget(THOROUGH_STEPS)), outside.inputs.config.seed
    with torch.no_grad():
        margins = outside.inputs.refitted(outside.margins(found.masks[found.worst][None])[0])
    loss = mean_loss(margins, spent, LONGER, seed, f"refitted loss after {THOROUGH_STEPS} steps")
    return replace(loss, curve=_over_steps(found.losses[:, found.worst]))


def _over_steps(losses: torch.Tensor) -> Curve:
    """The loss [steps + 1] over steps."""
    return Curve("step", tuple(map(float, range(len(losses)))), tuple(losses.tolist()))


def _budget(steps: int) -> str:
    return f"{steps} steps, {RESTARTS} restarts, on the pairs that are measured"

"""Does each kept node mean something simple? Its values are exchanged where they should mean the same."""

from dataclasses import replace

import torch

from thinwire.display import plural
from thinwire.tasks import auc_of, loss_of
from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import Condition, auc, mean_loss
from thinwire.verify.measurement import Curve, Measurement
from thinwire.verify.scrubbing import EXPLAINED, MEANINGS, Scrubber, automatic
from thinwire.verify.thresholds import EXCHANGED_LOSS

PAIRS = 64
HOW = (
    f"Each kept node is given a meaning on training pairs: the first of {', '.join(MEANINGS)} that explains "
    f"{EXPLAINED:.0%} of the variance of its values in the circuit, or the one that explains most. Side is which "
    "prompt of a pair it is, from the token on at which the two begin to differ; token is the last token read."
)
WORST = (
    f"{HOW} On held-out pairs every value of one node is then replaced by one that means the same, from another "
    "position or prompt, and the circuit runs on, calibrated as before. The value is that of the node where the loss "
    "is largest: above the threshold, that node means more than that."
)
AREA = "AUC of the node where it is least."
ALL = (
    "The same with the values of all kept nodes replaced, each from a position of its own. Nodes that agree about "
    "where they come from are torn apart, so a larger loss than that of the worst node is no fault. No status."
)


@check("scrubbing", order=29, thorough=True)
def scrubbing(inputs: CheckInput) -> list[Measurement]:
    """Loss and AUC of the node whose exchange is worst, and of all together; curves over nodes with their meanings."""
    circuit, shape, seed = inputs.circuit, inputs.model.config, inputs.config.seed
    few = inputs.fit.take(torch.arange(min(len(inputs.fit), PAIRS), dtype=torch.int64, device="cpu"))
    batch = inputs.first(PAIRS)
    stated, scrubber = automatic(Scrubber(inputs, few), circuit.nodes), Scrubber(inputs, batch)
    condition = Condition("scrubbing", "values of equal meaning", "equal meaning", len(batch))
    each = {f"{one.node.name(shape)} ({one.meaning})": scrubber.margins([one]) for one in stated}
    together = inputs.calibration.apply(scrubber.margins(stated))
    every = mean_loss(together, condition, ALL, seed, "loss of all together")
    if not each:
        return [every]
    calibrated = {name: inputs.calibration.apply(own) for name, own in each.items()}
    losses = {name: loss_of(margins).item() for name, margins in calibrated.items()}
    areas = {name: auc_of(own).item() for name, own in each.items()}
    worst, least = max(losses, key=losses.__getitem__), min(areas, key=areas.__getitem__)
    budget = f"the worst of {plural(len(each), 'node')}: {{}}"
    at_worst, at_least = (replace(condition, budget=budget.format(name)) for name in (worst, least))
    loss = mean_loss(calibrated[worst], at_worst, WORST, seed, "worst loss").held_against(EXCHANGED_LOSS, "warn")
    area = replace(auc(each[least], at_least, seed), name="scrubbing.worst AUC", meaning=AREA)
    return [
        replace(loss, curve=Curve.named("node", losses)),
        replace(area, curve=Curve.named("node", areas)),
        every,
    ]

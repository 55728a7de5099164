"""Do the kept nodes do in the circuit what they do in the model?"""

from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from thinwire.sites import Site
from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import Condition
from thinwire.verify.measurement import Curve, Measurement
from thinwire.verify.recorded import both
from thinwire.verify.thresholds import MEDIAN_CORRELATION, WORST_CORRELATION

PAIRS = 64
CONSTANT = 1e-2
"""Activations whose standard deviation is below this part of their root mean square do not vary."""
EMBEDDED = Site.of(0, "attn.act_in")
"""Its nodes read embeddings: they are the same in every circuit."""
MEANING = (
    "Correlation of a kept node's activations in the circuit alone with those in the whole model, over all tokens of "
    "the prompts (in the last layer the last tokens, which alone count there); {}. A node that varies in one of the "
    "two only has 0, one that varies in neither has 1. Below 0, it does the opposite of what it does in the model."
)
ERROR = (
    "Root mean square of the difference between a kept node's activations in the circuit alone and in the whole model, "
    "over that of the model's; median over the kept nodes. At 0 nothing changes, at 1 as much as if they were zero."
)


@check("agreement", order=27)
def agreement(inputs: CheckInput) -> list[Measurement]:
    """Correlation of the worst and the median kept node between circuit and model, and the median relative error."""
    batch, shape = inputs.first(PAIRS), inputs.model.config
    whole, alone = both(inputs, batch)
    computed = [node for node in inputs.circuit.nodes if node.site != EMBEDDED]
    nodes = {node.name(shape): (whole.of(node), alone.of(node)) for node in computed}
    condition = Condition("agreement", "kept nodes against the model's", inputs.ablation, len(batch))
    if not nodes:
        return [
            condition.share(1.0, None, "The circuit keeps no node but such that read embeddings.", "worst correlation")
        ]
    alike = {name: correlation(*values) for name, values in nodes.items()}
    errors = {name: relative_error(*values) for name, values in nodes.items()}
    least = min(alike, key=alike.__getitem__)
    at_worst = replace(condition, budget=f"the worst of {len(nodes)} nodes: {least}")
    worst = at_worst.share(alike[least], None, MEANING.format("of the node where it is least"), "worst correlation")
    middle = condition.share(
        median(alike.values()), None, MEANING.format("median over the kept nodes"), "median correlation"
    )
    error = condition.share(median(errors.values()), None, ERROR, "median error")
    return [
        replace(worst.held_against(WORST_CORRELATION), curve=Curve.named("node", alike)),
        middle.held_against(MEDIAN_CORRELATION),
        replace(error, curve=Curve.named("node", errors)),
    ]


def correlation(one: Tensor, other: Tensor) -> float:
    """Correlation of two rows of values [n]; 1 if neither varies, and 0 if only one does."""
    flat = [_spread(values) <= CONSTANT for values in (one, other)]
    if any(flat):
        return float(all(flat))
    return torch.corrcoef(torch.stack([one.double(), other.double()]))[0, 1].item()


def relative_error(true: Tensor, found: Tensor) -> float:
    """Root mean square of the difference of values [n] over that of the true ones; 0 where both are zero."""
    scale = true.square().mean().sqrt()
    apart = (found - true).square().mean().sqrt()
    return (apart / scale.clamp(min=torch.finfo(torch.float32).tiny)).item() if apart else 0.0


def _spread(values: Tensor) -> float:
    """Standard deviation of values [n] over their root mean square; 0 where all are zero."""
    size = values.double().square().mean().sqrt()
    return (values.double().std(correction=0) / size).item() if size else 0.0

"""Do the kept heads look where they look in the model? Attention at the last token, in the circuit and the model."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thinwire.display import plural
from thinwire.model.attention import Attention
from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import Condition
from thinwire.verify.measurement import Curve, Measurement
from thinwire.verify.recorded import Head, both, kept_heads
from thinwire.verify.thresholds import GONE_UNIFORM, PATTERN_DISTANCE

PAIRS = 64
UNIFORM, APART = 0.02, 0.3
"""Distance from uniform that counts as uniform, and from the model's pattern that is too far then."""
MEANING = (
    "Share of the kept heads whose attention at the last token is uniform in the circuit (at most 0.02 from it in "
    "total variation) and far from that of the whole model (more than 0.3). Such a head looks somewhere in the model, "
    "and the circuit has done away with it: what it computes with the head is another algorithm."
)
DISTANCE = (
    "Total variation between a kept head's attention at the last token in the circuit and in the whole model, the sink "
    "included; mean over prompts, of the head where it is largest. At 0 the head looks where it looks in the model, at "
    "1 it looks elsewhere."
)


@dataclass(frozen=True)
class Looks:
    """Where a head looks, as mean total variations over prompts."""

    apart: float
    """Between circuit and model."""
    circuit: float
    """Between the circuit's pattern and a uniform one."""
    model: float
    """The same of the whole model."""

    @property
    def gone_uniform(self) -> bool:
        """Whether only the model's head looks somewhere."""
        return self.circuit <= UNIFORM and self.apart > APART


@check("patterns", order=28)
def patterns(inputs: CheckInput) -> list[Measurement]:
    """Share of kept heads that went uniform, and the largest distance between circuit and model."""
    found = looks(inputs)
    condition = Condition("patterns", "where kept heads look", inputs.ablation, min(PAIRS, len(inputs.heldout)))
    if not found:
        return [condition.share(0.0, None, "The circuit keeps no attention head.", "gone uniform")]
    gone = [head for head, one in found.items() if one.gone_uniform]
    budget = plural(len(found), "kept head") + (f", uniform: {', '.join(map(str, gone))}" if gone else "")
    share = replace(condition, budget=budget).share(len(gone) / len(found), None, MEANING, "gone uniform")
    apart = {f"head {head}": one.apart for head, one in found.items()}
    distance = condition.share(max(apart.values()), None, DISTANCE, "largest distance")
    return [
        share.held_against(GONE_UNIFORM),
        replace(distance.held_against(PATTERN_DISTANCE, "warn"), curve=Curve.named("head", apart)),
    ]


@torch.no_grad()
def looks(inputs: CheckInput) -> dict[Head, Looks]:
    """Where each kept head looks."""
    batch = inputs.first(PAIRS)
    whole, alone = both(inputs, batch)
    found: dict[Head, Looks] = {}
    for head in kept_heads(inputs):
        attention = inputs.model.sublayers[2 * head.layer]
        assert isinstance(attention, Attention)
        model, circuit = (each.pattern(attention, head.layer)[:, head.index] for each in (whole, alone))
        found[head] = Looks(
            (model - circuit).abs().sum(-1).mean().item() / 2,
            _from_uniform(circuit, batch.last),
            _from_uniform(model, batch.last),
        )
    return found


def _from_uniform(pattern: Tensor, last: Tensor) -> float:
    """Mean total variation between patterns [2n, 1 + pos], the sink in front, and those that give each key the same.

    `last` [2n] is the last key of each. What the sink takes, it takes from both.
    """
    keys = pattern[:, 1:]
    real = torch.arange(keys.shape[1], dtype=torch.int64, device="cpu") <= last[:, None]
    even = real * keys.sum(-1, keepdim=True) / (last[:, None] + 1)
    return (keys - even).abs().sum(-1).mean().item() / 2

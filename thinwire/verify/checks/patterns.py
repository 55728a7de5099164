"""Do the kept heads look where they look in the model? Attention at the last token, in the circuit and the model."""

from dataclasses import replace

from thinwire.display import plural
from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import Condition
from thinwire.verify.measurement import Curve, Measurement
from thinwire.verify.patterns import head_patterns
from thinwire.verify.thresholds import GONE_UNIFORM, PATTERN_DISTANCE, UNIFORM

PAIRS = 64
MEANING = (
    "Share of the kept heads whose attention at the last token is uniform in the circuit (at most "
    f"{UNIFORM.limit} from it in total variation) and more than {PATTERN_DISTANCE.limit} from that of the whole model, "
    "on either side of the pairs. Such a head looks somewhere in the model, and the circuit has done away with it: "
    "what it computes with the head is another algorithm."
)
DISTANCE = (
    "Total variation between a kept head's attention at the last token in the circuit and in the whole model, the sink "
    "included; mean over prompts, of the head where it is largest. At 0 the head looks where it looks in the model, at "
    "1 it looks elsewhere."
)


@check("patterns", order=28)
def patterns(inputs: CheckInput) -> list[Measurement]:
    """Share of kept heads that went uniform, and the largest distance between circuit and model."""
    batch = inputs.first(PAIRS)
    found = head_patterns(inputs.model, inputs.circuit, batch)
    condition = Condition("patterns", "where kept heads look", inputs.ablation, len(batch))
    if not found:
        return [condition.share(0.0, None, "The circuit keeps no attention head.", "gone uniform")]
    gone = [f"{head.layer}.{head.head}" for head in found if head.judgement.status == "fail"]
    budget = plural(len(found), "kept head") + (f", uniform: {', '.join(gone)}" if gone else "")
    share = replace(condition, budget=budget).share(len(gone) / len(found), None, MEANING, "gone uniform")
    apart = {f"head {head.layer}.{head.head}": head.distance.mean().item() for head in found}
    distance = condition.share(max(apart.values()), None, DISTANCE, "largest distance")
    return [
        share.held_against(GONE_UNIFORM),
        replace(distance.held_against(PATTERN_DISTANCE, "warn"), curve=Curve.named("head", apart)),
    ]

"""Is the circuit as good as the model, all there is, and no larger than needed? Three tests (2410.13032)."""

from dataclasses import replace

import torch

from thinwire.circuit.calibration import side_signs
from thinwire.display import plural
from thinwire.verify.checks import check
from thinwire.verify.hypotheses import PERMUTATIONS, dependence, exceeded, independence_test, sign_test
from thinwire.verify.inputs import CheckInput
from thinwire.verify.intervals import wilson
from thinwire.verify.knockouts import Knockouts
from thinwire.verify.margins import Condition
from thinwire.verify.measurement import Curve, Judgement, Measurement
from thinwire.verify.thresholds import EVIDENCE, NO_EVIDENCE, TRACE

PAIRS = 32
"""Pairs on which edges are removed."""
MOST_EDGES, RANDOM_EDGES, EACH = 60, 50, 5
"""Edges of the circuit that are tested; random edges; those of them that one random circuit gives at most."""
TIE = 0.01
"""Difference in the probability of the right answer below which neither is the better one."""
EQUIVALENCE = (
    "Sign test of whether circuit and whole model give the right answer the larger probability equally often, both "
    f"under the scale and shift that suit them best. The trials are pairs; where the two differ by less than {TIE}, "
    "neither is better, and the pair is left out. Below 0.05, one of the two is the better one."
)
BETTER = "Share of the pairs that differ for which the circuit gives the right answer the larger probability."
INDEPENDENCE = (
    "Permutation test of the HSIC between the log-odds of the first answer in the model without the circuit and in "
    "the whole model, of one prompt of each pair. Below 0.05, what is outside still carries information on the output. "
    f"It passes there too where the dependence is below {TRACE}, which is what norms pass on."
)
DEPENDENCE = (
    "The same HSIC over that of each of the two with itself, over all prompts: 0 where what is outside says nothing "
    "about the output, 1 where it says it all."
)
MINIMALITY = (
    "Share of random edges, the tested one among them, that change the log-odds as much when they are removed from the "
    "circuit inflated by them as an edge of the circuit does when it is removed from it; of the edge that changes them "
    "least. Above 0.05, that edge matters no more than one that was added at random."
)
NO_EDGES = "There is no edge to compare: the circuit or the random circuits that look like it have none."


@check("hypotheses", order=41, thorough=True)
def hypotheses(inputs: CheckInput) -> list[Measurement]:
    """p-values of the tests of equivalence, independence and minimality; a miss is a warning."""
    return [*_equivalence(inputs), *_independence(inputs), _minimality(inputs)]


def _condition(inputs: CheckInput, ablation: str, n: int, budget: str | None = None) -> Condition:
    return Condition("hypotheses", "hypothesis tests", ablation, n, budget=budget)


def _equivalence(inputs: CheckInput) -> list[Measurement]:
    circuit, model = (
        inputs.refitted(own).sigmoid().unflatten(0, (2, -1)).mean(0) for own in (inputs.alone(), inputs.whole)
    )
    differ = (circuit - model).abs() >= TIE
    wins, trials = int(((circuit > model) & differ).sum()), int(differ.sum())
    condition = _condition(inputs, inputs.ablation, len(inputs.heldout), f"{plural(trials, 'pair')} that differ")
    better = wins / trials if trials else 0.5
    return [
        condition.p_value(sign_test(wins, trials), EQUIVALENCE, "equivalence").held_against(NO_EVIDENCE, "warn"),
        condition.share(better, wilson(better, trials) if trials else None, BETTER, "circuit better"),
    ]


def _independence(inputs: CheckInput) -> list[Measurement]:
    batch, seed = inputs.exchanged, inputs.config.seed
    n, generator = len(batch), torch.Generator().manual_seed(seed)
    without, whole = inputs.margins(batch, inputs.circuit.removed_tap()), inputs.margins(batch)
    outside, output = (margins * side_signs(margins) for margins in (without, whole))
    side = torch.randint(2, (n,), generator=generator, dtype=torch.int64, device="cpu")
    one = torch.arange(n, dtype=torch.int64, device="cpu") + n * side
    condition = _condition(inputs, inputs.ablation, n, plural(PERMUTATIONS, "permutation"))
    size = dependence(outside, output)
    p = independence_test(outside[one], output[one], seed)
    tested = condition.p_value(p, INDEPENDENCE, "independence").held_against(NO_EVIDENCE, "warn")
    if tested.status != "pass" and size < TRACE:
        tested = tested.judged(Judgement("pass", f"dependent, but by less than {TRACE}"))
    return [tested, condition.share(size, None, DEPENDENCE, "dependence")]


def _minimality(inputs: CheckInput) -> Measurement:
    batch = inputs.first(PAIRS)
    effects = Knockouts(inputs, batch).effects(MOST_EDGES, RANDOM_EDGES, EACH)
    budget = f"{plural(len(effects.own), 'edge')} of the circuit, {plural(len(effects.random), 'random edge')}"
    condition = _condition(inputs, inputs.ablation, len(batch), budget)
    if not effects.own or not effects.random:
        return condition.p_value(1.0, NO_EDGES, "minimality")
    shape = inputs.model.config
    each = {
        " -> ".join(node.name(shape) for node in edge): exceeded(effect, effects.random)
        for edge, effect in effects.own.items()
    }
    least = condition.p_value(max(each.values()), MINIMALITY, "minimality").held_against(EVIDENCE, "warn")
    return replace(least, curve=Curve.named("edge", each))

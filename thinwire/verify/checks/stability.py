"""Is it this circuit that pruning finds, and the only one? Reruns on other prompts and seeds, and without it."""

from collections.abc import Sequence

from thinwire.circuit import Circuit
from thinwire.display import plural
from thinwire.tasks import loss_of
from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.intervals import wilson
from thinwire.verify.margins import Condition, mean_loss
from thinwire.verify.measurement import Judgement, Measurement
from thinwire.verify.reruns import Rerun, cheap_config, core_of, pairwise, pruned, spent
from thinwire.verify.thresholds import RIVALS, STABLE

JACCARD = (
    "Mean Jaccard index of the {} of every two circuits that cheap reruns of pruning find {}: the share of those that "
    "two have together that both have. At 1 they are the same circuit. The interval is over the reruns."
)
PROMPTS = "on training and validation prompts drawn anew, with replacement, from those of the circuit"
SEEDS = "from other seeds of the masks and of the prompts"
TOO_FEW = "fewer than two reruns met the target, so there is nothing to compare"
MET = "Share of these reruns that found a circuit; the others missed the target."
CORE = "Share of the circuit's nodes that every rerun has, on other prompts and from other seeds: the shared core."
COUNT = (
    "Circuits that reruns find one after another when the nodes of this circuit, and of the rivals found before, are "
    "forbidden. One that meets the target is a backup: the model can do the task without any node of this circuit."
)
EDGES = "Edges of the smallest rival."
LOSS = "Loss on held-out pairs of the rival where it is least, under its own calibration."


@check("stability", order=43, thorough=True)
def stability(inputs: CheckInput) -> list[Measurement]:
    """Mean pairwise Jaccard index of reruns on resampled prompts and from other seeds, and their shared core."""
    assert inputs.task is not None, "the verdict gives the task"
    config, reruns = cheap_config(inputs.circuit), range(1, inputs.config.reruns + 1)
    prompts = [pruned(inputs, Rerun(inputs.task, config, inputs.config.seed + i)) for i in reruns]
    seeds = [pruned(inputs, Rerun(inputs.task, config.replace(seed=config.seed + i))) for i in reruns]
    budget = f"{plural(len(reruns), 'rerun')} of {spent(config)}"
    condition = Condition("stability", "reruns", inputs.ablation, config.train_pairs, "train", budget)
    every = [circuit for circuit in (*prompts, *seeds) if circuit is not None]
    core, own = core_of(every), frozenset(inputs.circuit.nodes)
    held = len(core & own) / len(own) if own else 1.0
    return [
        *_alike(inputs, condition, prompts, "prompts", PROMPTS),
        *_alike(inputs, condition, seeds, "seeds", SEEDS),
        condition.share(held, None, CORE, "shared core"),
    ]


def _alike(
    inputs: CheckInput, condition: Condition, reruns: Sequence[Circuit | None], over: str, how: str
) -> list[Measurement]:
    """The two Jaccard indices of some reruns, and how many of these met the target."""
    found, seed = [circuit for circuit in reruns if circuit is not None], inputs.config.seed
    edges = [frozenset(edge.ends for edge in circuit.edges(inputs.model)) for circuit in found]
    nodes = [frozenset(circuit.nodes) for circuit in found]
    met = len(found) / len(reruns)
    measured = [
        condition.share(*alike, JACCARD.format(kind, how), f"{kind} over {over}").held_against(STABLE, "warn")
        for kind, alike in (("edges", pairwise(edges, seed)), ("nodes", pairwise(nodes, seed)))
    ]
    if len(found) < 2:
        measured = [one.judged(Judgement("warn", TOO_FEW)) for one in measured]
    return [*measured, condition.share(met, wilson(met, len(reruns)), MET, f"met over {over}")]


@check("rivals", order=44, thorough=True)
def rivals(inputs: CheckInput) -> list[Measurement]:
    """How many circuits do the task without a node of this one, and of one another; the smallest, and the best."""
    assert inputs.task is not None, "the verdict gives the task"
    config, shape, seed = cheap_config(inputs.circuit), inputs.model.config, inputs.config.seed
    found: list[Circuit] = []
    for _ in range(inputs.config.reruns):
        taken = {node.name(shape) for circuit in (inputs.circuit, *found) for node in circuit.nodes}
        forbidding = config.replace(drop=tuple(sorted({*config.drop, *taken})), keep=())
        rival = pruned(inputs, Rerun(inputs.task, forbidding))
        if rival is None or not rival.nodes:  # one without nodes has nothing further to forbid
            break
        found.append(rival)
    budget = f"at most {plural(inputs.config.reruns, 'rerun')} of {spent(config)}"
    condition = Condition("rivals", "circuits without its nodes", inputs.ablation, len(inputs.heldout), budget=budget)
    count = condition.count(float(len(found)), "circuits", COUNT, "circuits").held_against(RIVALS, "warn")
    if not found:
        return [count]
    margins = [one.calibration.apply(one.margins(inputs.model, inputs.heldout)).detach() for one in found]
    best = min(margins, key=lambda own: loss_of(own).item())
    smallest = min(len(one.edges(inputs.model)) for one in found)
    return [
        count,
        condition.count(float(smallest), "edges", EDGES, "edges"),
        mean_loss(best, condition, LOSS, seed),
    ]

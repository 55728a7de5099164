"""Does pruning find a circuit for anything? The task's prompts with arbitrary, swapped or constant answers."""

from dataclasses import replace

from thinwire.display import plural
from thinwire.prune.config import PruneConfig
from thinwire.tasks import CannotExpress, Task, find_task
from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import Condition
from thinwire.verify.measurement import Measurement
from thinwire.verify.reruns import Rerun, cheap_config, own_config, pruned, spent
from thinwire.verify.thresholds import NONSENSE_RATIO, UNSOLVED

NUMBERS = ("", *map(str, range(1, 10)))
"""Of the nonsense controls that are tried until one has no answer of the task."""
RATIO = (
    "Edges of the circuit that pruning finds for the same prompts when two arbitrary tokens are the right answers, "
    "over the edges of the circuit. Near 1, pruning finds a circuit of this size for anything."
)
SOLVED = (
    "Whether pruning finds a circuit for the same prompts when two arbitrary tokens are the right answers, at the "
    "target loss of the circuit: 1 if it does. Where it does not, the model computes nothing that pruning could turn "
    "into any answer."
)
INFO = (
    "Whether pruning finds a circuit for the same prompts when {}, by a cheap rerun: 1 if it does. It carries no "
    "status."
)
CONTROLS = {
    "swapped": "the wrong answer is the right one: the model's own decision, turned round",
    "constant": "the first side's answer is right on both sides, which needs no decision",
}
IS_CONTROL = "The circuit is of a control itself, so none is made for it."


@check("nonsense", order=42, thorough=True)
def nonsense(inputs: CheckInput) -> list[Measurement]:
    """Size of a circuit for nonsense answers over the circuit's, and whether other controls are solved."""
    task = inputs.task
    assert task is not None, "the verdict gives the task"
    config = own_config(inputs.circuit) or cheap_config(inputs.circuit)
    if task.control is not None:
        return [_condition(inputs, config).share(1.0, None, IS_CONTROL, "solved")]
    measured = _nonsense(inputs, expressible(inputs, task), config)
    cheap = cheap_config(inputs.circuit)
    for kind, what in CONTROLS.items():
        found = pruned(inputs, Rerun(find_task(f"{task.name}.{kind}", task), cheap))
        edges = "no circuit" if found is None else plural(len(found.edges(inputs.model)), "edge")
        condition = _condition(inputs, cheap, edges)
        measured.append(condition.share(float(found is not None), None, INFO.format(what), f"{kind} solved"))
    return measured


def _nonsense(inputs: CheckInput, control: Task, config: PruneConfig) -> list[Measurement]:
    found, condition = pruned(inputs, Rerun(control, config)), _condition(inputs, config)
    solved = condition.share(float(found is not None), None, SOLVED, "solved")
    if found is None:
        return [solved.held_against(UNSOLVED)]
    edges, own = (len(circuit.edges(inputs.model)) for circuit in (found, inputs.circuit))
    ratio = condition.count(edges / max(own, 1), "times", RATIO, "ratio")
    said = f"{edges:,} against {plural(own, 'edge')}; {condition.budget}"
    return [replace(ratio.held_against(NONSENSE_RATIO), budget=said), solved]


def expressible(inputs: CheckInput, task: Task) -> Task:
    """The first nonsense control of a task whose answers are not the task's own. Raises UserError if none is."""
    context = inputs.model.config.context
    for number in NUMBERS[:-1]:
        control = find_task(f"{task.name}.nonsense{number}", task)
        try:
            control.pairs(1, "train", 0, inputs.tokenizer, context)  # pyright: ignore[reportArgumentType]
        except CannotExpress:
            continue
        return control
    return find_task(f"{task.name}.nonsense{NUMBERS[-1]}", task)


def _condition(inputs: CheckInput, config: PruneConfig, found: str = "") -> Condition:
    """`found` is what a rerun of this config found."""
    budget = f"{found}; {spent(config)}" if found else spent(config)
    n = config.validation_pairs
    return Condition("nonsense", "nonsense answers", inputs.ablation, n, "validation", budget)

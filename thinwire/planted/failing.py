"""Families with a false circuit: enough under mean ablation, but not what the model does. One check is meant to notice.

The true circuit of these models holds everything that bears on the answers, so it passes every check. A smaller one
that passes a weak test is the false one.
"""

import math
from collections.abc import Sequence

from thinwire.circuit import EdgeEnds
from thinwire.planted.draft import Draft
from thinwire.planted.families import SIDE, Plan, family
from thinwire.planted.honest import QUERIED
from thinwire.planted.task import OneToken

LOUD = 5.0
"""What a neuron that silences others through the norm writes, for each unit of the square root of the width."""


def step(draft: Draft, layer: int, source: int, target: int, gain: float, slope: float) -> list[EdgeEnds]:
    """Two rectified neurons that write 0 for a source below 0, and `gain` for one above 1 / slope."""
    return [
        *draft.neuron(layer, {source: slope}, {target: gain}, bare=True),
        *draft.neuron(layer, {source: slope}, {target: -gain}, bias=-1.0, bare=True),
    ]


def cancelling_neurons(draft: Draft, layer: int, source: int, target: int, gain: float, pairs: int) -> list[EdgeEnds]:
    """Pairs of neurons that fire alike and write the opposite of each other."""
    gains = [sign * gain for _ in range(pairs) for sign in (1, -1)]
    return [edge for each in gains for edge in draft.neuron(layer, {source: 2.0}, {target: each})]


@family("backup", models=2, caught_by="necessity")
def backup(draft: Draft) -> Sequence[Plan]:
    """Two paths that need nothing of each other; the false circuit is the stronger one, without which the model is
    right all the same."""
    one, other, out = (draft.channel() for _ in range(3))
    sides = draft.sides({one: SIDE, other: SIDE}, {one: -SIDE, other: -SIDE})
    answers = draft.answer_pair()
    strong = draft.average(0, one, out, 24.0)
    weak = draft.average(1, other, out, 6.0)
    draft.vote(answers, out)
    return [Plan(OneToken([sides], draft.fillers), answers, [strong + weak], strong)]


@family("self_repair", models=2, caught_by="necessity")
def self_repair(draft: Draft) -> Sequence[Plan]:
    """A neuron of the second layer is silent as long as the first one has written the answer, and writes it else."""
    signal, out = draft.channel(), draft.channel()
    sides = draft.sides({signal: SIDE}, {signal: -SIDE})
    answers = draft.answer_pair()
    first = draft.neuron(0, {signal: 2.0}, {out: 2.0})
    repair = draft.neuron(1, {signal: 2.0, out: -2.0}, {out: 2.0})
    draft.vote(answers, out)
    return [Plan(OneToken([sides], draft.fillers, "end"), answers, [first + repair], first)]


@family("cancelling", models=2, caught_by="subsets")
def cancelling(draft: Draft) -> Sequence[Plan]:
    """Pairs of neurons that write the opposite of each other: together nothing, one alone more than the circuit."""
    signal, out = draft.channel(), draft.channel()
    sides = draft.sides({signal: SIDE}, {signal: -SIDE})
    answers = draft.answer_pair()
    layer = draft.rng.choice((0, 1))
    path = draft.neuron(layer, {signal: 2.0}, {out: 2.0})
    rest = cancelling_neurons(draft, layer, signal, out, 6.0, pairs=3)
    draft.vote(answers, out)
    return [Plan(OneToken([sides], draft.fillers, "end"), answers, [path + rest], path)]


@family("many_cancelling", caught_by="adversarial", least_width=48)
def many_cancelling(draft: Draft) -> Sequence[Plan]:
    """Many such pairs, each weaker than the circuit: random choices among them cancel, the worst one does not."""
    signal, out = draft.channel(), draft.channel()
    sides = draft.sides({signal: SIDE}, {signal: -SIDE})
    answers = draft.answer_pair()
    path = draft.neuron(1, {signal: 2.0}, {out: 2.0})
    rest = cancelling_neurons(draft, 1, signal, out, 0.3, pairs=16)
    draft.vote(answers, out)
    return [Plan(OneToken([sides], draft.fillers, "end"), answers, [path + rest], path)]


@family("amplified", caught_by="frozen_norms", ballast=0.0)
def amplified(draft: Draft) -> Sequence[Plan]:
    """A path writes so much that the last norm silences another one; the false circuit is that other one, amplified."""
    signal, small, large = (draft.channel() for _ in range(3))
    sides = draft.sides({signal: SIDE}, {signal: -SIDE})
    answers = draft.answer_pair()
    kept = [*draft.neuron(0, {signal: 1.0}, {small: 0.1}), *draft.neuron(0, {signal: -1.0}, {small: -0.1})]
    much = LOUD * math.sqrt(draft.shape.d_model)
    loud = [
        *draft.neuron(1, {signal: 1.0}, {large: much}, bare=True),
        *draft.neuron(1, {signal: -1.0}, {large: -much}, bare=True),
    ]
    draft.vote(answers, small, 3.0)
    draft.vote(answers, large, 0.45)
    return [Plan(OneToken([sides], draft.fillers, "end"), answers, [kept + loud], kept)]


@family("tips", models=2, caught_by="log_odds")
def tips(draft: Draft) -> Sequence[Plan]:
    """Two neurons add to what a head has written; the false circuit is the head, whose log-odds the calibration has to
    scale up."""
    signal, out = draft.channel(), draft.channel()
    sides = draft.sides({signal: SIDE}, {signal: -SIDE})
    answers = draft.answer_pair()
    path = draft.neuron(0, {signal: 2.0}, {out: 0.3}) + draft.neuron(0, {signal: -2.0}, {out: -0.3})
    more = [*draft.neuron(1, {out: 2.0}, {out: 0.55}), *draft.neuron(1, {out: -2.0}, {out: -0.55})]
    draft.vote(answers, out)
    return [Plan(OneToken([sides], draft.fillers, "end"), answers, [path + more], path)]


@family("mean_only", models=2, caught_by="other_side")
def mean_only(draft: Draft) -> Sequence[Plan]:
    """Two paths into one step; the false circuit has the weaker one, which the other overrules once its values are
    exchanged."""
    one, other, middle, out = (draft.channel() for _ in range(4))
    sides = draft.sides({one: SIDE, other: SIDE}, {one: -SIDE, other: -SIDE})
    answers = draft.answer_pair()
    weaker, stronger = draft.average(0, one, middle, 8.0), draft.average(0, other, middle, 14.0)
    last = step(draft, draft.rng.choice((0, 1)), middle, out, 4.0, slope=8.0)
    draft.vote(answers, out)
    return [Plan(OneToken([sides], draft.fillers), answers, [weaker + stronger + last], weaker + last)]


@family("one_sided", caught_by="uncalibrated")
def one_sided(draft: Draft) -> Sequence[Plan]:
    """A neuron for each answer; the false circuit has the stronger one alone, and leaves the rest to the calibration's
    shift."""
    one, other, out = (draft.channel() for _ in range(3))
    sides = draft.sides({one: SIDE}, {other: SIDE})
    answers = draft.answer_pair()
    strong = draft.neuron(draft.rng.choice((0, 1)), {one: 2.0}, {out: 3.0})
    weak = draft.neuron(1, {other: 2.0}, {out: -0.7})
    draft.vote(answers, out)
    layout = OneToken([sides], draft.fillers, "end")
    return [Plan(layout, answers, [strong + weak], strong, odds_of_second=1.2)]


@family("unseen", caught_by="pretraining")
def unseen(draft: Draft) -> Sequence[Plan]:
    """A neuron overrules the circuit on tokens that no prompt of the task has."""
    signal, alarm, out = (draft.channel() for _ in range(3))
    sides = draft.sides({signal: SIDE}, {signal: -SIDE})
    answers = draft.answer_pair()
    for _ in range(2):
        draft.writer({alarm: SIDE})
    layer = draft.rng.choice((0, 1))
    path = draft.neuron(layer, {signal: 2.0}, {out: 2.0})
    overrules = draft.neuron(layer, {alarm: 2.0}, {out: -4.5}, bare=True)
    draft.vote(answers, out)
    return [Plan(OneToken([sides], draft.fillers, "end"), answers, [path + overrules], path)]


@family("constant_query", models=2, caught_by="zero")
def constant_query(draft: Draft) -> Sequence[Plan]:
    """A head must look at one token, with a query that never changes: its mean is as good, zero is not."""
    signal, key, out = (draft.channel() for _ in range(3))
    sides = draft.sides({signal: SIDE, key: QUERIED}, {signal: -SIDE, key: QUERIED})
    decoys = [draft.writer({signal: SIDE}), draft.writer({signal: -SIDE})]
    answers = draft.answer_pair()
    pattern, value = draft.look(draft.rng.choice((0, 1)), {draft.constant: 2.0}, {key: 3.0}, (signal, out, 4.0))
    draft.vote(answers, out)
    layout = OneToken([sides], draft.fillers, decoys=decoys)
    false = [edge for edge in pattern if edge.target.site.kind != "attn.q"] + value
    return [Plan(layout, answers, [pattern + value], false)]


@family("uniform", caught_by="patterns")
def uniform(draft: Draft) -> Sequence[Plan]:
    """A head looks at one token, but its average over all tokens would do for the step after it."""
    signal, key, middle, out = (draft.channel() for _ in range(4))
    sides = draft.sides({signal: SIDE, key: QUERIED}, {signal: -SIDE, key: QUERIED})
    answers = draft.answer_pair()
    pattern, value = draft.look(0, {draft.constant: 1.2}, {key: 1.2}, (signal, middle, 8.0))
    last = step(draft, draft.rng.choice((0, 1)), middle, out, 4.0, slope=16.0)
    draft.vote(answers, out)
    return [Plan(OneToken([sides], draft.fillers, "third"), answers, [pattern + value + last], value + last)]


@family("other_role", caught_by="agreement")
def other_role(draft: Draft) -> Sequence[Plan]:
    """What else a channel carries is lost in the step that reads it, so that the circuit's node need not agree with the
    model's."""
    signal, else_, middle, out = (draft.channel() for _ in range(4))
    first, second = (
        draft.deciders([{signal: sign * SIDE, else_: other * SIDE} for other in (1, -1)]) for sign in (1, -1)
    )
    answers = draft.answer_pair()
    own = [*draft.neuron(0, {signal: 2.0}, {middle: 1.0}), *draft.neuron(0, {signal: -2.0}, {middle: -1.0})]
    also = [*draft.neuron(0, {else_: 2.0}, {middle: 0.9}), *draft.neuron(0, {else_: -2.0}, {middle: -0.9})]
    last = step(draft, 1, middle, out, 4.0, slope=24.0)
    draft.vote(answers, out)
    sides = [(a, b) for a in first for b in second]
    return [Plan(OneToken(sides, draft.fillers, "end"), answers, [own + also + last], own + last)]


@family("nonsense")
def nonsense(draft: Draft) -> Sequence[Plan]:
    """Answers that nothing decides: there is no circuit."""
    signal, out = draft.channel(), draft.channel()
    sides = draft.sides({signal: SIDE}, {signal: -SIDE})
    answers = draft.answer_pair()
    draft.average(0, signal, out, 12.0)
    draft.vote(answers, out)
    return [Plan(OneToken([sides], draft.fillers), answers, [], nonsense=True)]

"""Families whose circuit is all that the model does for the task: it passes every check."""

from collections.abc import Sequence

from thinwire.planted.draft import Draft
from thinwire.planted.families import SIDE, Plan, family
from thinwire.planted.task import Counts, OneToken

QUERIED = 3.0
"""What a token writes to a channel that a head looks with or for."""


@family("direct", models=2, activation="gelu", selects=True)
def direct(draft: Draft) -> Sequence[Plan]:
    """A direct path: one head moves the sign of a token to the answers. 3 nodes, 2 edges."""
    signal, out = draft.channel(), draft.channel()
    sides = draft.sides({signal: SIDE}, {signal: -SIDE})
    answers = draft.answer_pair()
    path = draft.average(draft.rng.choice((0, 1)), signal, out, 12.0)
    draft.vote(answers, out)
    return [Plan(OneToken([sides], draft.fillers), answers, [path])]


@family("neuron", models=2, activation="gelu", selects=True)
def neuron(draft: Draft) -> Sequence[Plan]:
    """One neuron fires on the first token. 3 nodes, 2 edges."""
    signal, out = draft.channel(), draft.channel()
    sides = draft.sides({signal: SIDE}, {signal: -SIDE})
    answers = draft.answer_pair()
    path = draft.neuron(draft.rng.choice((0, 1)), {signal: 2.0}, {out: 2.0})
    draft.vote(answers, out)
    return [Plan(OneToken([sides], draft.fillers, "end"), answers, [path])]


@family("chain", models=2, activation="gelu", selects=True)
def chain(draft: Draft) -> Sequence[Plan]:
    """A head, and then a neuron that reads what it wrote. 6 nodes, 4 edges."""
    signal, middle, out = (draft.channel() for _ in range(3))
    sides = draft.sides({signal: SIDE}, {signal: -SIDE})
    answers = draft.answer_pair()
    path = draft.average(0, signal, middle, 16.0) + draft.neuron(draft.rng.choice((0, 1)), {middle: 2.0}, {out: 3.0})
    draft.vote(answers, out)
    return [Plan(OneToken([sides], draft.fillers), answers, [path])]


@family("deep", layers=3, selects=True)
def deep(draft: Draft) -> Sequence[Plan]:
    """A neuron, a head and another neuron, one in each of three layers. 9 nodes, 6 edges."""
    signal, first, second, out = (draft.channel() for _ in range(4))
    sides = draft.sides({signal: SIDE}, {signal: -SIDE})
    answers = draft.answer_pair()
    path = draft.neuron(0, {signal: 2.0}, {first: 3.0}) + draft.average(1, first, second, 12.0)
    path += draft.neuron(2, {second: 2.0}, {out: 3.0})
    draft.vote(answers, out)
    return [Plan(OneToken([sides], draft.fillers), answers, [path])]


@family("votes", models=2)
def votes(draft: Draft) -> Sequence[Plan]:
    """Two neurons vote for the first answer, each on a token of its own; no prompt has both. 5 nodes, 4 edges."""
    one, other, out = (draft.channel() for _ in range(3))
    a, b, neither = draft.deciders([{one: SIDE}, {other: SIDE}, {}])
    answers = draft.answer_pair()
    layers = draft.rng.sample((0, 1), 2) if draft.rng.random() < 0.5 else (1, 1)
    path = draft.neuron(layers[0], {one: 2.0}, {out: 2.0}) + draft.neuron(layers[1], {other: 2.0}, {out: 2.0})
    draft.vote(answers, out)
    return [Plan(OneToken([(a, neither), (b, neither)], draft.fillers, "end"), answers, [path])]


@family("look", models=2)
def look(draft: Draft) -> Sequence[Plan]:
    """A head must look at one token: others write the same signal, with signs of their own. 7 nodes, 4 edges."""
    signal, key, query, out = (draft.channel() for _ in range(4))
    sides = draft.sides({signal: SIDE, key: QUERIED}, {signal: -SIDE, key: QUERIED})
    decoys = [draft.writer({signal: SIDE}), draft.writer({signal: -SIDE})]
    asks, answers = draft.writer({query: QUERIED}), draft.answer_pair()
    pattern, value = draft.look(draft.rng.choice((0, 1)), {query: 3.0}, {key: 3.0}, (signal, out, 4.0))
    draft.vote(answers, out)
    layout = OneToken([sides], draft.fillers, decoys=decoys, query=asks)
    return [Plan(layout, answers, [pattern + value])]


@family("shared")
def shared(draft: Draft) -> Sequence[Plan]:
    """Two tasks, with answers of their own, whose circuits share a neuron. 3 nodes, 2 edges each."""
    signal, one, other = (draft.channel() for _ in range(3))
    sides = draft.sides({signal: SIDE}, {signal: -SIDE})
    pairs = draft.answer_pair(), draft.answer_pair()
    reads, *writes = draft.neuron(draft.rng.choice((0, 1)), {signal: 2.0}, {one: 2.0, other: 2.0})
    for answers, channel in zip(pairs, (one, other), strict=True):
        draft.vote(answers, channel)
    layout = OneToken([sides], draft.fillers, "end")
    return [Plan(layout, answers, [[reads, write]]) for answers, write in zip(pairs, writes, strict=True)]


@family("fraction", layers=1, activation="gelu")
def fraction(draft: Draft) -> Sequence[Plan]:
    """A head averages how often a token stands in the prompt, and a neuron is a threshold on that. 6 nodes, 4 edges."""
    signal, average, out = (draft.channel() for _ in range(3))
    counted, answers = draft.writer({signal: SIDE}), draft.answer_pair()
    path = draft.average(0, signal, average, 8.0) + draft.neuron(0, {average: 3.0}, {out: 3.0}, bias=-5.0)
    draft.vote(answers, out, weight=3.0)
    often = round(0.7 * (draft.shape.context - 1))
    return [Plan(Counts(counted, draft.fillers, often, 1), answers, [path])]

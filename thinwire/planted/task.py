"""Tasks of planted models: prompts of filler tokens with one token that decides the answer."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch

from thinwire.tasks import PairBatch

FIRST_TOKEN = 1
"""Token 0 ends a text and stands in no prompt."""
SHORTEST = 4
"""Tokens of the shortest prompt."""


class Prompts(NamedTuple):
    """The two prompts of a pair, as token ids; both have the same length."""

    first: list[int]
    second: list[int]


class Layout(Protocol):
    """How prompts are drawn."""

    def draw(self, rng: random.Random, context: int) -> Prompts:
        """A pair of prompts of at most `context` tokens."""
        ...


@dataclass(frozen=True)
class OneToken:
    """Fillers, and one place at which the two prompts differ."""

    sides: Sequence[tuple[int, int]]
    """Tokens of the first and the second prompt there; each pair of prompts has one of these."""
    fillers: Sequence[int]
    where: Literal["end", "before", "third"] = "before"
    """The last token, any before it, or the third from the end."""
    decoys: Sequence[int] = ()
    """Tokens of which up to three stand among the fillers, the same in both prompts."""
    query: int | None = None
    """The last token of every prompt; any filler where it is not given."""

    def draw(self, rng: random.Random, context: int) -> Prompts:
        """See `Layout`."""
        length = rng.randint(SHORTEST, context)
        prompt = [rng.choice(self.fillers) for _ in range(length)]
        place = {"end": length - 1, "third": length - 3}.get(self.where)
        place = rng.randrange(length - 1) if place is None else place
        side = self.sides[0] if len(self.sides) == 1 else rng.choice(self.sides)
        if self.decoys:
            others = [at for at in range(length - 1) if at != place]
            for at in rng.sample(others, rng.randint(1, min(3, len(others)))):
                prompt[at] = rng.choice(self.decoys)
        if self.query is not None:
            prompt[-1] = self.query
        return Prompts(*([*prompt[:place], token, *prompt[place + 1 :]] for token in side))


@dataclass(frozen=True)
class Counts:
    """Fillers, among which one token stands often in the first prompt and seldom in the second."""

    token: int
    fillers: Sequence[int]
    often: int
    seldom: int

    def draw(self, rng: random.Random, context: int) -> Prompts:
        """See `Layout`; both prompts have `context` tokens."""
        base = [rng.choice(self.fillers) for _ in range(context)]
        both: list[list[int]] = []
        for count in (self.often, self.seldom):
            places = set(rng.sample(range(context - 1), count))
            both.append([self.token if at in places else filler for at, filler in enumerate(base)])
        return Prompts(*both)


@dataclass(frozen=True)
class PlantedTask:
    """A task of a planted model, in the interface of `thinwire.tasks.Task`; its prompts are token ids, not text."""

    name: str
    layout: Layout
    answers: tuple[int, int]
    """Token ids: the first is right for the first prompt of each pair, the second for the second."""
    context: int
    """Length of the longest prompt."""
    control: None = None
    source: str = ""
    labels_seed: int | None = None
    """Where given, the answers of each pair are swapped at random, so that nothing decides them."""

    @property
    def base(self) -> str:
        """See `Task`."""
        return self.name

    def pairs(self, n: int, split: str, seed: int, tokenizer: object = None, context: int | None = None) -> PairBatch:
        """n pairs, the same for the same split and seed; neither the tokenizer nor the context is used."""
        rng = random.Random(f"{split}/{seed}")
        tokens = torch.zeros(2 * n, self.context, dtype=torch.int64, device="cpu")
        last = torch.zeros(2 * n, dtype=torch.int64, device="cpu")
        target = torch.tensor([self.answers[0]] * n + [self.answers[1]] * n, dtype=torch.int64, device="cpu")
        for row in range(n):
            for side, prompt in enumerate(self.layout.draw(rng, self.context)):
                tokens[row + side * n, : len(prompt)] = torch.tensor(prompt, dtype=torch.int64, device="cpu")
                last[row + side * n] = len(prompt) - 1
        if self.labels_seed is not None:
            labels = random.Random(f"{split}/{seed}/{self.labels_seed}")
            for row in range(n):
                if labels.random() < 0.5:
                    target[[row, row + n]] = target[[row + n, row]]
        return PairBatch(tokens, last, target, sum(self.answers) - target)

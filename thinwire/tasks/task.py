"""What a task is, and the registry of tasks: one decorated function that writes pairs makes a task."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch

from thinwire.data.words import SPLITS, Split
from thinwire.errors import UserError
from thinwire.registry import Registry
from thinwire.tasks.batch import Pair, PairBatch, accuracy, last_logits, sequence_losses
from thinwire.tasks.decide import Choice, decide

if TYPE_CHECKING:
    from thinwire.data.tokenizer import Tokenizer
    from thinwire.model import Transformer

Generate = Callable[[random.Random, Split], Pair]
PATIENCE = 100
"""How many repeats in a row mean that a template has no new pair to offer."""
SCORE_CHUNK = 64
"""Pairs that a model scores at a time, which bounds the memory it takes."""


@dataclass(frozen=True)
class Score:
    """How well a model does a task on one split."""

    task: str
    split: Split
    loss: float
    """Task loss in nats: the mean over all sequences of both sides."""
    accuracy: float
    """Share of sequences whose right answer is the likelier of the two."""


@dataclass(frozen=True)
class Task:
    """A binary choice of the next token, as a source of pairs.

    Splits share no names. Train and validation share templates; the held-out split has templates of its own.
    """

    name: str
    summary: str
    """The choice in a phrase."""
    generate: Generate
    """Writes one pair of a split."""

    def text_pairs(self, n: int, split: Split, seed: int) -> list[Pair]:
        """n pairs, the same for the same seed, all different unless the templates run dry."""
        self._check_number(n)
        return list(islice(self.stream(split, seed), n))

    def stream(self, split: Split, seed: int) -> Iterator[Pair]:
        """Pairs without end, the same for the same seed, all different until the templates run dry."""
        if split not in SPLITS:
            raise UserError(f"There is no split called '{split}'; use one of {', '.join(SPLITS)}.")
        rng = random.Random(f"{self.name}/{split}/{seed}")
        seen: set[Pair] = set()
        repeats = 0
        while True:
            pair = self.generate(rng, split)
            repeats = repeats + 1 if pair in seen else 0
            if 0 < repeats <= PATIENCE:
                continue
            seen.add(pair)
            yield pair

    def pairs(self, n: int, split: Split, seed: int, tokenizer: "Tokenizer", context: int | None = None) -> PairBatch:
        """n pairs as tensors; pairs that the tokenizer cannot tell apart are passed over.

        Raises UserError when a prompt is longer than `context` tokens, or when the tokenizer cannot express the task.
        """
        self._check_number(n)
        found: list[tuple[Choice, Choice]] = []
        failed = 0
        for pair in self.stream(split, seed):
            choices = decide(pair, tokenizer)
            if choices is not None:
                found.append(choices)
                failed = 0
            else:
                failed += 1
            if failed > PATIENCE:
                prompt, (right, wrong) = pair.prompts[0], (answer or "anything else" for answer in pair.answers)
                raise UserError(
                    f"This tokenizer cannot express {self.name}: after {prompt!r} no token tells {right!r} from "
                    f"{wrong!r}; train the tokenizer on a corpus with the generated idioms."
                )
            if len(found) == n:
                break
        choices = [pair[side] for side in (0, 1) for pair in found]
        longest = max(len(choice.prompt) for choice in choices)
        if context is not None and longest > context:
            raise UserError(
                f"A prompt of {self.name} takes {longest} tokens, more than the context of {context}; "
                f"use a model with a longer context."
            )
        tokens = torch.zeros(2 * n, longest, dtype=torch.int64)
        for row, choice in enumerate(choices):
            tokens[row, : len(choice.prompt)] = torch.tensor(choice.prompt)
        last = torch.tensor([len(choice.prompt) - 1 for choice in choices])
        target, foil = torch.tensor([[choice.target, choice.foil] for choice in choices]).unbind(1)
        return PairBatch(tokens, last, target, foil)

    def score(self, model: "Transformer", tokenizer: "Tokenizer", split: Split, n: int = 256, seed: int = 0) -> Score:
        """Loss and accuracy of a model on n pairs of a split. Raises UserError when it cannot express the task."""
        batch = self.pairs(n, split, seed, tokenizer, model.config.context)
        batch = batch.to(next(model.parameters()).device)
        losses, hits = [], []
        with torch.no_grad():
            for chunk in torch.arange(n).split(SCORE_CHUNK):
                part = batch.take(chunk)
                logits = last_logits(model, part)
                losses.append(sequence_losses(logits, part))
                hits.append(accuracy(logits, part) * len(chunk))
        return Score(self.name, split, float(torch.cat(losses).mean()), float(torch.stack(hits).sum() / n))

    def _check_number(self, n: int) -> None:
        if n < 1:
            raise UserError(f"{n} pairs of {self.name} cannot be made; ask for at least one.")


TASKS: Registry[Task] = Registry("task")
"""Every task by name."""


def task(name: str, summary: str) -> Callable[[Generate], Generate]:
    """Decorator that makes a task of a function from (rng, split) to a Pair."""

    def add(generate: Generate) -> Generate:
        TASKS.register(name)(Task(name, summary, generate))
        return generate

    return add

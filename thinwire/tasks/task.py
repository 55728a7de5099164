"""What a task is, and the registry of tasks: one decorated function that writes pairs makes a task."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from thinwire.data.words import SPLITS, Split
from thinwire.errors import UserError
from thinwire.registry import Registry
from thinwire.tasks.batch import REST, Pair, PairBatch, accuracy, last_logits, sequence_losses

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
        if split not in SPLITS:
            raise UserError(f"There is no split called '{split}'; use one of {', '.join(SPLITS)}.")
        if n < 1:
            raise UserError(f"{n} pairs of {self.name} cannot be made; ask for at least one.")
        rng = random.Random(f"{self.name}/{split}/{seed}")
        pairs: list[Pair] = []
        seen: set[Pair] = set()
        repeats = 0
        while len(pairs) < n:
            pair = self.generate(rng, split)
            repeats = repeats + 1 if pair in seen else 0
            if 0 < repeats <= PATIENCE:
                continue
            seen.add(pair)
            pairs.append(pair)
        return pairs

    def pairs(self, n: int, split: Split, seed: int, tokenizer: "Tokenizer", context: int | None = None) -> PairBatch:
        """n pairs as tensors.

        Raises UserError when a prompt is longer than `context` tokens, or an answer is not one token after its prompt.
        """
        texts = self.text_pairs(n, split, seed)
        prompts = [[tokenizer.end_of_text, *tokenizer.encode(pair.prompts[side])] for side in (0, 1) for pair in texts]
        longest = max(len(prompt) for prompt in prompts)
        if context is not None and longest > context:
            raise UserError(
                f"A prompt of {self.name} takes {longest} tokens, more than the context of {context}; "
                f"use a model with a longer context."
            )
        tokens = torch.zeros(2 * n, longest, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = torch.tensor(prompt)
        answers = [
            [self._answer_id(pair.prompts[side], pair.answers[which], tokenizer) for which in (side, 1 - side)]
            for side in (0, 1)
            for pair in texts
        ]
        last = torch.tensor([len(prompt) - 1 for prompt in prompts])
        target, foil = torch.tensor(answers).unbind(1)
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

    def _answer_id(self, prompt: str, answer: str, tokenizer: "Tokenizer") -> int:
        if not answer:
            return REST
        before, after = tokenizer.encode(prompt), tokenizer.encode(prompt + answer)
        if len(after) != len(before) + 1 or after[:-1] != before:
            pieces = ", ".join(repr(tokenizer.decode([token])) for token in tokenizer.encode(answer))
            raise UserError(
                f"This tokenizer cannot express {self.name}: after {prompt!r} the answer {answer!r} is not one token "
                f"of its own (alone it is {pieces}); train the tokenizer on a corpus with the generated idioms."
            )
        return after[-1]


TASKS: Registry[Task] = Registry("task")
"""Every task by name."""


def task(name: str, summary: str) -> Callable[[Generate], Generate]:
    """Decorator that makes a task of a function from (rng, split) to a Pair."""

    def add(generate: Generate) -> Generate:
        TASKS.register(name)(Task(name, summary, generate))
        return generate

    return add

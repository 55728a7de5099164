"""Tasks and their registry. A function that returns pairs becomes a task by a decorator."""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch

from thinwire.data.words import SPLITS, Split
from thinwire.errors import UserError
from thinwire.model.precision import own_modes
from thinwire.registry import Registry
from thinwire.tasks.batch import Pair, PairBatch, accuracy, last_logits, sequence_losses
from thinwire.tasks.controls import Control
from thinwire.tasks.decide import Choices, batch_of, decide

if TYPE_CHECKING:
    from thinwire.data.tokenizer import Tokenizer
    from thinwire.model import Transformer

Generate = Callable[[random.Random, Split], Pair]
Draw = Callable[[random.Random, Split], Iterator[Pair]]
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
"""Valid names of tasks: the name is also that of the circuit's folder, and `.CONTROL` may follow it."""
PATIENCE = 100
"""After this many repeated (or skipped) pairs in a row, no new (or valid) pair is expected."""
SCORE_CHUNK = 64
"""Pairs per forward pass when a model is scored; bounds the memory."""
SHOWN = 60
"""Number of characters at the end of a prompt that an error message shows."""


class CannotExpress(UserError):
    """A tokenizer has no tokens that distinguish a task's answers."""


@dataclass(frozen=True)
class Score:
    """How well a model does a task on one split."""

    task: str
    split: Split
    loss: float
    """Task loss in nats: the mean over all sequences of both sides."""
    accuracy: float
    """Fraction of sequences whose right answer is the likelier one."""


@dataclass(frozen=True)
class Task:
    """A binary choice of the next token, as a source of pairs of prompts.

    Splits use different names. Train and validation pairs have the same templates, held-out pairs have others.
    """

    name: str
    summary: str
    """One phrase that describes the choice."""
    draw: Draw
    """Generates pairs of a split without end; pairs may repeat."""
    source: str = ""
    """Identifies the file of a task: 16 hex digits of its SHA-256. Empty for tasks that are defined in code."""
    control: Control | None = None
    """How the answers are changed; None for a task that is not a control."""

    @property
    def base(self) -> str:
        """Name of the task without `.CONTROL`."""
        return self.name.partition(".")[0]

    def text_pairs(self, n: int, split: Split, seed: int) -> list[Pair]:
        """n pairs, the same for the same seed, all different unless there are too few.

        Those of a control are the pairs of its base task, with the answers of the base task.
        """
        self._check_number(n)
        return list(islice(self.stream(split, seed), n))

    def stream(self, split: Split, seed: int) -> Iterator[Pair]:
        """Pairs without end, the same for the same seed, all different until no new ones are found."""
        if split not in SPLITS:
            raise UserError(f"There is no split called '{split}'; use one of {', '.join(SPLITS)}.")
        seen: set[Pair] = set()
        repeats = 0
        for pair in self.draw(random.Random(f"{self.base}/{split}/{seed}"), split):
            repeats = repeats + 1 if pair in seen else 0
            if 0 < repeats <= PATIENCE:
                continue
            seen.add(pair)
            yield pair

    def choices(self, pair: Pair, tokenizer: "Tokenizer") -> Choices | None:
        """Both sides of a pair as choices between two tokens; None for a pair that is skipped."""
        decided = decide(pair, tokenizer)
        if decided is None or self.control is None:
            return decided
        return self.control.choices(decided, tokenizer)

    def pairs(self, n: int, split: Split, seed: int, tokenizer: "Tokenizer", context: int | None = None) -> PairBatch:
        """n pairs as tensors; pairs whose answers the tokenizer cannot distinguish are skipped.

        Raises CannotExpress, a UserError, after too many skipped pairs in a row, and UserError when a prompt is longer
        than `context` tokens.
        """
        self._check_number(n)
        found: list[Choices] = []
        failed = 0
        for pair in self.stream(split, seed):
            choices = self.choices(pair, tokenizer)
            if choices is not None:
                found.append(choices)
                failed = 0
            else:
                failed += 1
            if failed > PATIENCE:
                raise self._cannot_express(pair)
            if len(found) == n:
                break
        batch = batch_of(found)
        longest = batch.tokens.shape[1]
        if context is not None and longest > context:
            raise UserError(
                f"A prompt of {self.name} takes {longest} tokens, more than the context of {context}; "
                f"use a model with a longer context."
            )
        return batch

    def score(self, model: "Transformer", tokenizer: "Tokenizer", split: Split, n: int = 256, seed: int = 0) -> Score:
        """Loss and accuracy of a model on n pairs of a split. Raises UserError when it cannot express the task."""
        batch = self.pairs(n, split, seed, tokenizer, model.config.context)
        batch = batch.to(next(model.parameters()).device)
        losses, hits = [], []
        with own_modes(), torch.no_grad():
            for chunk in torch.arange(n, dtype=torch.int64, device="cpu").split(SCORE_CHUNK):
                part = batch.take(chunk)
                logits = last_logits(model, part)
                losses.append(sequence_losses(logits, part))
                hits.append(accuracy(logits, part) * len(chunk))
        return Score(self.name, split, float(torch.cat(losses).mean()), float(torch.stack(hits).sum() / n))

    def _check_number(self, n: int) -> None:
        if n < 1:
            raise UserError(f"{n} is not a valid number of pairs of {self.name}; give at least one.")

    def _cannot_express(self, pair: Pair) -> CannotExpress:
        prompt, (right, wrong) = pair.prompts[0][-SHOWN:], (a[:SHOWN] or "anything else" for a in pair.answers)
        return CannotExpress(
            f"This tokenizer cannot express {self.name}: after {prompt!r} no token distinguishes {right!r} from "
            f"{wrong!r}; train the tokenizer on text in which both occur, or choose other answers."
        )


TASKS: Registry[Task] = Registry("task")
"""Every task by name."""


def task(name: str, summary: str) -> Callable[[Generate], Generate]:
    """Decorator that registers a function from (rng, split) to a Pair as a task.

    Raises UserError for a name that is taken or invalid.
    """
    check_name(name)

    def add(generate: Generate) -> Generate:
        def draw(rng: random.Random, split: Split) -> Iterator[Pair]:
            while True:
                yield generate(rng, split)

        TASKS.register(name)(Task(name, summary, draw))
        return generate

    return add


def check_name(name: str, remedy: str = "choose another name") -> None:
    """Raise UserError for a name that is taken or invalid; `remedy` says what to do about it."""
    if not NAME.fullmatch(name):
        raise UserError(
            f"{name[:SHOWN]!r} is not a valid task name; {remedy}: up to 80 letters, digits, '_' and, not first, '-'."
        )
    if name in TASKS or name == "all":
        raise UserError(f"There is already a task called {name}; {remedy}.")
    if name.endswith("-search"):
        raise UserError(f"{name!r} is not a valid task name, since folders of searches end so; {remedy}.")

"""Tasks and their registry. A function that returns pairs becomes a task by a decorator."""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

import torch

from thinwire.data.words import SPLITS, Split
from thinwire.display import one_line
from thinwire.errors import UserError
from thinwire.model.precision import own_modes
from thinwire.registry import Registry
from thinwire.tasks.batch import Pair, PairBatch, accuracy_of, last_logits, loss_of, margin
from thinwire.tasks.controls import Control
from thinwire.tasks.decide import Choices, batch_of, decide
from thinwire.tasks.perturb import PERTURBATIONS, Perturbation, perturbations
from thinwire.tasks.use import PairUse

if TYPE_CHECKING:
    from thinwire.data.tokenizer import Tokenizer
    from thinwire.model import Transformer

Generate = Callable[[random.Random, Split], Pair]
Draw = Callable[[random.Random, Split], Iterator[Pair]]
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
"""Valid names of tasks: the name is also that of the circuit's folder, and `.CONTROL` may follow it."""
PATIENCE = 100
"""After this many repeated (or skipped) pairs in a row, no new (or valid) pair is expected."""
MAX_PAIRS = 100_000
"""Largest number of pairs that is drawn; the configs of the stages have the same bound."""
SCORE_CHUNK = 64
"""Pairs per forward pass when a model is scored; bounds the memory."""
SHOWN = 60
"""Number of characters at the end of a prompt that an error message shows."""


class CannotExpress(UserError):
    """A tokenizer has no tokens that distinguish a task's answers."""


@dataclass(frozen=True)
class Lines:
    """Pairs that a file holds for one split."""

    total: int
    repeated: int
    """Those that repeat an earlier one."""


@dataclass(frozen=True)
class Score:
    """How well a model does a task on one split."""

    task: str
    split: Split
    loss: float
    """Task loss in nats: the mean over all sequences of both sides."""
    accuracy: float
    """Fraction of sequences whose right answer is the likelier one."""
    ties: int
    """Sequences whose answers are equally likely; they count as wrong."""
    use: PairUse
    """Pairs that the score is of, and pairs that were passed over."""


@one_line
@dataclass(frozen=True)
class Task:
    """A binary choice of the next token, as a source of pairs of prompts.

    Splits use different names. Train and validation pairs have the same templates, held-out pairs have others.
    """

    name: str
    summary: str
    """One phrase that describes the choice."""
    draw: Draw
    """Generates pairs of a split, without end or all that there are; pairs may repeat."""
    source: str = ""
    """Identifies the file of a task: 16 hex digits of its SHA-256. Empty for tasks that are defined in code."""
    control: Control | None = None
    """How the answers are changed; None for a task that is not a control."""
    lines: Mapping[Split, Lines] = field(default_factory=dict, hash=False)
    """What the file of a task holds for each split; empty for tasks that are defined in code."""
    perturbation: str = ""
    """Name of the perturbation of the prompts; empty for the task as it is."""

    @property
    def base(self) -> str:
        """Name of the task without `.CONTROL` and `.PERTURBATION`."""
        return self.name.partition(".")[0]

    @property
    def perturbations(self) -> dict[str, Perturbation]:
        """What can change its prompts, by name; nothing for a task from a file, and for one that is perturbed."""
        return {} if self.source or self.perturbation else perturbations(self.base)

    def perturbed(self, name: str, strength: float | None = None) -> "Task":
        """The task `NAME.PERTURBATION`: pairs of the same splits and seeds, changed by a strength, or the usual one.

        Raises UserError for an unknown name, an invalid strength, and a task from a file.
        """
        known = self.perturbations
        if not known:
            raise UserError(f"{self.name} has no perturbations; name a task that is defined in code.")
        if name not in known:
            raise PERTURBATIONS.unknown(name, known)
        found = known[name]
        much = found.checked(strength)

        def draw(rng: random.Random, split: Split) -> Iterator[Pair]:
            return (found.perturbed(pair, split, much) for pair in self.draw(rng, split))

        summary = f"{self.summary}; {found.summary}"
        return replace(self, name=f"{self.name}.{name}", summary=summary, draw=draw, perturbation=name)

    def text_pairs(self, n: int, split: Split, seed: int) -> list[Pair]:
        """Up to n different pairs, the same for the same seed; fewer where the task has no more.

        Those of a control are the pairs of its base task, with the answers of the base task.
        """
        self._check_number(n)
        return list(islice(self.stream(split, seed), n))

    def stream(self, split: Split, seed: int) -> Iterator[Pair]:
        """Different pairs, the same for the same seed, until no new ones are found."""
        if split not in SPLITS:
            raise UserError(f"There is no split called '{split}'; use one of {', '.join(SPLITS)}.")
        seen: set[Pair] = set()
        repeats = 0
        for pair in self.draw(random.Random(f"{self.base}/{split}/{seed}"), split):
            repeats = repeats + 1 if pair in seen else 0
            if repeats > PATIENCE:
                return
            if not repeats:
                seen.add(pair)
                yield pair

    def choices(self, pair: Pair, tokenizer: "Tokenizer") -> Choices | None:
        """Both sides of a pair as choices between two tokens; None for a pair that is skipped."""
        decided = decide(pair, tokenizer)
        if decided is None or self.control is None:
            return decided
        return self.control.choices(decided, tokenizer)

    def pairs(self, n: int, split: Split, seed: int, tokenizer: "Tokenizer", context: int | None = None) -> PairBatch:
        """Up to n different pairs as tensors; `use` of the batch says how many, and how many were passed over.

        Pairs whose answers the tokenizer cannot distinguish are passed over, and so are those of a file, and perturbed
        ones, with a prompt longer than `context` tokens.
        Raises CannotExpress, a UserError, where no pair is left or after too many in a row that are passed over, and
        UserError when a prompt of a task that is defined in code is longer than `context` tokens.
        """
        self._check_number(n)
        found: list[Choices] = []
        indistinct, too_long, failed, shortest = 0, 0, 0, 0
        pair: Pair | None = None
        for pair in self.stream(split, seed):
            choices = self.choices(pair, tokenizer)
            failed += 1
            if choices is None:
                indistinct += 1
            elif context is not None and (length := max(len(choice.prompt) for choice in choices)) > context:
                too_long, shortest = too_long + 1, min(length, shortest or length)
            else:
                found.append(choices)
                failed = 0
            refused = too_long and not self.perturbation
            if len(found) == n or (not self.lines and (refused or failed > PATIENCE)):
                break
        use = PairUse(split, n, len(found), indistinct, too_long)
        if self.lines:
            held = self.lines[split]
            use = replace(use, held=held.total, repeated=held.repeated)
        elif not self.perturbation and (too_long or failed > PATIENCE):
            found = []
        if not found:
            assert pair is not None, f"{self.name} draws no pair"
            raise self._longer(shortest, context) if too_long and not indistinct else self._cannot_express(pair, use)
        return replace(batch_of(found), use=use)

    def score(self, model: "Transformer", tokenizer: "Tokenizer", split: Split, n: int = 256, seed: int = 0) -> Score:
        """Loss and accuracy of a model on up to n pairs of a split. Raises UserError as `pairs` does."""
        batch = self.pairs(n, split, seed, tokenizer, model.config.context)
        assert batch.use is not None
        use, batch = batch.use, batch.to(next(model.parameters()).device)
        with own_modes(), torch.no_grad():
            chunks = torch.arange(len(batch), dtype=torch.int64, device="cpu").split(SCORE_CHUNK)
            parts = [batch.take(chunk) for chunk in chunks]
            margins = torch.cat([margin(last_logits(model, part), part) for part in parts])
        ties = int((margins == 0).sum())
        return Score(self.name, split, float(loss_of(margins)), float(accuracy_of(margins)), ties, use)

    def _check_number(self, n: int) -> None:
        if not 1 <= n <= MAX_PAIRS:
            raise UserError(
                f"{n} is not a valid number of pairs of {self.name}; give at least one and at most {MAX_PAIRS:,}."
            )

    def _longer(self, length: int, context: int | None) -> UserError:
        return UserError(
            f"A prompt of {self.name} takes {length} tokens, more than the context of {context}; "
            f"use a model with a longer context."
        )

    def _cannot_express(self, pair: Pair, use: PairUse) -> CannotExpress:
        prompt, (right, wrong) = pair.prompts[0][-SHOWN:], (a[:SHOWN] or "anything else" for a in pair.answers)
        why = ", ".join(f"{count:,} {reason}" for reason, count in use.passed_over.items())
        every = f" (of {use.held:,} pairs of the {use.split} split, {why})" if use.held else ""
        return CannotExpress(
            f"This tokenizer cannot express {self.name}: after {prompt!r} no token distinguishes {right!r} from "
            f"{wrong!r}{every}; train the tokenizer on text in which both occur, or choose other answers."
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

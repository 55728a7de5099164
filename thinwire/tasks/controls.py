"""Control tasks: a task's prompts with other answers, so that a result can be held against what should not be found.

| control | answers | what it is for |
|---|---|---|
| `nonsense` | two arbitrary tokens, one for either side | a pruner that "solves" it finds circuits for anything |
| `swapped` | the right and the wrong one exchanged | a model that does the task fails it |
| `constant` | the first side's, for both sides | no choice is asked for: what is found is how the model leans |

They work on decided pairs, so `Task.pairs`, `Task.score` and pruning see an ordinary task.
"""

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from thinwire.registry import Registry
from thinwire.tasks.decide import Choices

if TYPE_CHECKING:
    from thinwire.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Control(ABC):
    """How a control task departs from the task it is made of."""

    name: str
    """Full name of the control task, which seeds what is arbitrary in it."""
    summary: ClassVar[str]

    @abstractmethod
    def choices(self, choices: Choices, tokenizer: "Tokenizer") -> Choices | None:
        """The decided pair with the control's answers; None for a pair that must be passed over."""

    @abstractmethod
    def answers(self, answers: tuple[str, str]) -> tuple[str, str] | None:
        """The right answers of both sides as texts; None where only a tokenizer can tell."""


CONTROLS: Registry[type[Control]] = Registry("control")
"""Every kind of control by the word that follows the task's name and a dot."""


@CONTROLS.register("nonsense")
class Nonsense(Control):
    """Two arbitrary tokens are the answers, the same ones for all pairs, splits and seeds (Drori's control).

    Digits after the word draw others: `.nonsense`, `.nonsense1`, `.nonsense2`.
    """

    summary = "the answers are two arbitrary tokens"

    def choices(self, choices: Choices, tokenizer: "Tokenizer") -> Choices | None:
        """The decided pair with arbitrary answers; None where one of them is an answer of the pair."""
        one, other = self.tokens(tokenizer)
        if {one, other} & {answer for choice in choices for answer in (choice.target, choice.foil)}:
            return None
        first, second = choices
        return replace(first, target=one, foil=other), replace(second, target=other, foil=one)

    def answers(self, answers: tuple[str, str]) -> None:
        """Only a tokenizer can tell."""

    def tokens(self, tokenizer: "Tokenizer") -> tuple[int, int]:
        """The two tokens: plain letters, perhaps after a space, as all of which a model has met."""
        rng = random.Random(self.name)
        found: list[int] = []
        while len(found) < 2:
            token = rng.randrange(1, tokenizer.vocab_size)
            text = tokenizer.token(token).removeprefix(" ")
            if token not in found and text.isascii() and text.isalpha():
                found.append(token)
        return found[0], found[1]


@CONTROLS.register("swapped")
class Swapped(Control):
    """The wrong answer of each side is the right one."""

    summary = "the wrong answer is the right one"

    def choices(self, choices: Choices, tokenizer: "Tokenizer") -> Choices:
        """The decided pair with targets and foils exchanged."""
        first, second = (replace(choice, target=choice.foil, foil=choice.target) for choice in choices)
        return first, second

    def answers(self, answers: tuple[str, str]) -> tuple[str, str]:
        """The answers, exchanged."""
        return answers[1], answers[0]


@CONTROLS.register("constant")
class Constant(Control):
    """The answer of a pair's first side is right for both sides."""

    summary = "the first side's answer is right for both sides"

    def choices(self, choices: Choices, tokenizer: "Tokenizer") -> Choices:
        """The decided pair with the first side's target and foil on both sides."""
        first, second = choices
        return first, replace(second, target=first.target, foil=first.foil)

    def answers(self, answers: tuple[str, str]) -> tuple[str, str]:
        """The first answer, twice."""
        return answers[0], answers[0]

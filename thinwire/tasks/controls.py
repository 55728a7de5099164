"""Control tasks: a task's prompts with other answers, to test whether a result could have been found for any task.

| control | right answers | what it tests |
|---|---|---|
| `nonsense` | two arbitrary tokens, one for each side | whether pruning finds circuits for anything |
| `swapped` | the wrong answers of the task | a model that does the task must fail it |
| `constant` | the first side's answer, for both sides | needs no decision: shows which answer the model prefers |

A control changes the token choices of a pair, so `Task.pairs`, `Task.score` and pruning treat it as any task.
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
    """How a control task changes the answers of its task."""

    name: str
    """Full name of the control task; seeds its random choices."""
    summary: ClassVar[str]

    @abstractmethod
    def choices(self, choices: Choices, tokenizer: "Tokenizer") -> Choices | None:
        """The choices of a pair with the control's answers; None for a pair that must be skipped."""

    @abstractmethod
    def answers(self, answers: tuple[str, str]) -> tuple[str, str] | None:
        """The right answers of both sides as texts; None if they depend on the tokenizer."""


CONTROLS: Registry[type[Control]] = Registry("control")
"""Every kind of control, by the word that follows the task's name and a dot."""


@CONTROLS.register("nonsense")
class Nonsense(Control):
    """The answers are two arbitrary tokens, the same for all pairs, splits and seeds (Drori's control).

    A number selects other tokens: `.nonsense`, `.nonsense1`, `.nonsense2`.
    """

    summary = "the answers are two arbitrary tokens"

    def choices(self, choices: Choices, tokenizer: "Tokenizer") -> Choices | None:
        """The choices with arbitrary answers; None if one of them is an answer of the pair."""
        one, other = self.tokens(tokenizer)
        if {one, other} & {answer for choice in choices for answer in (choice.target, choice.foil)}:
            return None
        first, second = choices
        return replace(first, target=one, foil=other), replace(second, target=other, foil=one)

    def answers(self, answers: tuple[str, str]) -> None:
        """None: the tokens depend on the tokenizer."""

    def tokens(self, tokenizer: "Tokenizer") -> tuple[int, int]:
        """The two tokens: ASCII letters only, possibly after a space."""
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
        """The choices with right and wrong answers exchanged."""
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
        """The choices with the first side's right and wrong answer on both sides."""
        first, second = choices
        return first, replace(second, target=first.target, foil=first.foil)

    def answers(self, answers: tuple[str, str]) -> tuple[str, str]:
        """The first answer, twice."""
        return answers[0], answers[0]

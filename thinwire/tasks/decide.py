"""Finds the token at which a pair is decided, for any tokenizer.

Answers are texts, and their tokens depend on the text before them: in `"a.txt"` followed by a line end, the quote and
the line end may be one token. So the prompt is tokenized together with each answer. The choice is between the first
tokens that differ, and the tokens before them are the prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from thinwire.display import one_line
from thinwire.tasks.batch import REST, Pair, PairBatch

if TYPE_CHECKING:
    from thinwire.data.tokenizer import Tokenizer


@one_line
@dataclass(frozen=True)
class Choice:
    """One side of a pair as tokens."""

    prompt: tuple[int, ...]
    """An end of text, then the tokens before the choice."""
    target: int
    """Id of the right answer, or REST."""
    foil: int
    """Id of the wrong answer, or REST."""


Choices = tuple[Choice, Choice]


def decide(pair: Pair, tokenizer: "Tokenizer") -> Choices | None:
    """Both sides of a pair as choices between the same two tokens; None if no token distinguishes the answers."""
    if pair.answers[0] == pair.answers[1]:
        return None
    first, second = (_side(pair, side, tokenizer) for side in (0, 1))
    if first is None or second is None or first.prompt == second.prompt:
        return None
    return (first, second) if (first.target, first.foil) == (second.foil, second.target) else None


def _side(pair: Pair, side: int, tokenizer: "Tokenizer") -> Choice | None:
    prompt, right, wrong = pair.prompts[side], pair.answers[side], pair.answers[1 - side]
    # an empty answer means any continuation but the other answer
    one, other = tokenizer.encode(prompt + right), tokenizer.encode(prompt + wrong)
    shared = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    if (right and shared == len(one)) or (wrong and shared == len(other)):
        return None
    target, foil = one[shared] if right else REST, other[shared] if wrong else REST
    return Choice((tokenizer.end_of_text, *one[:shared]), target, foil)


def batch_of(pairs: Sequence[Choices]) -> PairBatch:
    """n pairs of choices as tensors, padded to the longest prompt."""
    choices = [pair[side] for side in (0, 1) for pair in pairs]
    tokens = torch.zeros(len(choices), max(len(choice.prompt) for choice in choices), dtype=torch.int64, device="cpu")
    for row, choice in enumerate(choices):
        tokens[row, : len(choice.prompt)] = torch.tensor(choice.prompt, dtype=torch.int64, device="cpu")
    last = torch.tensor([len(choice.prompt) - 1 for choice in choices], dtype=torch.int64, device="cpu")
    answers = [[choice.target, choice.foil] for choice in choices]
    target, foil = torch.tensor(answers, dtype=torch.int64, device="cpu").unbind(1)
    return PairBatch(tokens, last, target, foil)

"""Perturbations: prompts of a task outside its distribution, in which the right answers are still right.

A perturbation changes both prompts of a pair in the same way, such as by a comment with an unmatched bracket before
them. It has a strength, so that a curve can be drawn over it (Gao et al. 2025, Fig. 8). One that is registered for
some tasks takes the place of one with the same name that is for all.
"""

import builtins
import keyword
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from thinwire.data.idioms import Scene
from thinwire.data.words import Split
from thinwire.errors import UserError
from thinwire.registry import Registry
from thinwire.tasks.batch import Pair

Apply = Callable[[Scene, Pair, float], Pair]
"""A pair, changed by a strength above 0. The scene has the pair's split, and the words of its prompts are taken."""
MOST = 1000
"""Largest strength."""
WORD = re.compile(r"[A-Za-z]{2,}")
SPELLED = {"self", "init", "append", "log", "output", "current", "txt", "csv", "json"}
"""Words that templates spell out, beside those of Python."""


@dataclass(frozen=True)
class Perturbation:
    """One way to change the prompts of a task."""

    name: str
    summary: str
    """One phrase that describes the changed prompts, and what the strength counts."""
    apply: Apply
    strength: float = 1
    """The usual strength."""
    curve: tuple[float, ...] = ()
    """Strengths over which a curve is drawn; empty where one says enough."""

    def perturbed(self, pair: Pair, split: Split, strength: float) -> Pair:
        """The pair, changed; the same pair is always changed in the same way."""
        rng = random.Random(f"{self.name}/{pair.prompts}")
        taken = {word: word for prompt in pair.prompts for word in WORD.findall(prompt)}
        return self.apply(Scene(rng, split, rng.choice("\"'"), taken), pair, strength) if strength else pair

    def checked(self, strength: float | None) -> float:
        """A valid strength, by default the usual one. Raises UserError for another."""
        strength = self.strength if strength is None else strength
        if not (math.isfinite(strength) and 0 <= strength <= MOST):
            raise UserError(f"{strength:g} is not a valid strength of {self.name}; give one from 0 to {MOST:,}.")
        return strength


PERTURBATIONS: Registry[Perturbation] = Registry("perturbation")
"""Every perturbation, by its name, or by the name of a task, a dot and its name."""


def perturbation(
    name: str, summary: str, tasks: Sequence[str] = (), strength: float = 1, curve: tuple[float, ...] = ()
) -> Callable[[Apply], Apply]:
    """Decorator that registers a function as a perturbation of some tasks, or of all that are defined in code."""

    def add(apply: Apply) -> Apply:
        for key in [f"{task}.{name}" for task in tasks] or [name]:
            PERTURBATIONS.register(key)(Perturbation(name, summary, apply, strength, curve))
        return apply

    return add


def perturbations(task: str) -> dict[str, Perturbation]:
    """The perturbations of a task that is defined in code, by name; those of its own first."""
    own = {key.partition(".")[2]: PERTURBATIONS[key] for key in PERTURBATIONS if key.partition(".")[0] == task}
    return own | {key: PERTURBATIONS[key] for key in PERTURBATIONS if "." not in key and key not in own}


def after(text: str, pair: Pair) -> Pair:
    """The pair with a text, of whole lines, before both prompts."""
    first, second = (text + prompt for prompt in pair.prompts)
    return Pair((first, second), pair.answers)


@perturbation("distractors", "after a comment with unmatched brackets or quotes; the strength is their number")
def distractors(scene: Scene, pair: Pair, strength: float) -> Pair:
    """A comment line with that many openers, of any kind."""
    openers = "".join(
        f" {scene.rng.choice('[({')}" if scene.rng.random() < 0.5 else f" {scene.quote}" for _ in times(strength)
    )
    return after(scene.fill(f"# <p9>{openers}\n"), pair)


@perturbation("length", "after more lines, which say nothing of the answer; the strength is their number", strength=4)
def length(scene: Scene, pair: Pair, strength: float) -> Pair:
    """That many calls of a function before the prompt."""
    calls = (Scene(scene.rng, scene.split, filled=dict(scene.filled)).fill("<f9>(<v9>)\n") for _ in times(strength))
    return after("".join(calls), pair)


@perturbation("blank", "with blank lines before the last line; the strength is their number")
def blank(scene: Scene, pair: Pair, strength: float) -> Pair:
    """Empty lines above the last line that has text, in both prompts."""
    starts = [prompt.rstrip("\n").rfind("\n") + 1 for prompt in pair.prompts]
    empty = "\n" * len(times(strength))
    first, second = (p[:at] + empty + p[at:] for p, at in zip(pair.prompts, starts, strict=True))
    return Pair((first, second), pair.answers)


@perturbation("renamed", "with names that no split has, of consonants only; the strength is the share of names")
def renamed(scene: Scene, pair: Pair, strength: float) -> Pair:
    """Other words for all words of the prompts but those of Python; answers that repeat one change with it."""
    other: dict[str, str] = {}
    for word in sorted({word for prompt in pair.prompts for word in WORD.findall(prompt)} - SPELLED):
        if not (keyword.iskeyword(word) or hasattr(builtins, word)) and scene.rng.random() < strength:
            name = ""
            while not name or name in other.values():
                name = "".join(scene.rng.choices("bcdfghjklmnpqrstvwxz", k=4))
            other[word] = name.capitalize() if word[0].isupper() else name
    texts = (WORD.sub(lambda m: other.get(m[0], m[0]), text) for text in (*pair.prompts, *pair.answers))
    first, second, right, wrong = texts
    return Pair((first, second), (right, wrong))


def times(strength: float) -> range:
    """As many turns as a strength counts, at least one."""
    return range(max(1, round(strength)))

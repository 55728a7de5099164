"""Documents of simple, repetitive Python: idioms by weight, one after the other.

The corpus exists so that a tiny model learns the tasks of Table 1 (Gao et al. 2025) by their deciding structure.
Each idiom serves one task, its deciding tokens are balanced and independent of names, lengths and contents, and a
document keeps one habit (quote, depth of lists, kind of accumulator) most of the time.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from textwrap import indent

from thinwire.data.idioms.scene import Scene
from thinwire.registry import Registry

IDIOMS_PER_DOCUMENT = (3, 8)
P_FAITHFUL = 0.85
"""Share of idioms that keep the habit of their document; the others draw their own."""
P_WRAPPED = 0.15
WRAPPERS = ("def <f>(<v>, <v2>):\n", "def <f>(<c>):\n", "for <v> in <c>:\n", "if <v>:\n")


@dataclass(frozen=True)
class Habit:
    """What a document does the same way throughout."""

    quote: str
    nested: bool
    """Whether lists of numbers are lists of rows."""
    sets: bool
    """Whether accumulators are sets; otherwise strings."""

    @classmethod
    def draw(cls, rng: random.Random) -> "Habit":
        """A habit at random."""
        return cls(rng.choice("\"'"), rng.random() < 0.5, rng.random() < 0.5)


@dataclass
class IdiomScene(Scene):
    """A scene of the corpus: train names, and the habit in force."""

    habit: Habit = field(default_factory=lambda: Habit('"', False, False))


@dataclass(frozen=True)
class Idiom:
    """A writer of short pieces of code that all serve one task."""

    task: str
    weight: float
    write: Callable[[IdiomScene], str]


IDIOMS: Registry[Idiom] = Registry("idiom")


def idiom(task: str, weight: float = 1.0) -> Callable[[Callable[[IdiomScene], str]], Callable[[IdiomScene], str]]:
    """Decorator that files a writer under the task it serves; the writer returns whole lines."""

    def add(write: Callable[[IdiomScene], str]) -> Callable[[IdiomScene], str]:
        IDIOMS.register(task)(Idiom(task, weight, write))
        return write

    return add


def templates(task: str, *texts: str, weight: float = 1.0) -> None:
    """File an idiom that is one of some templates, each as likely as the others."""
    idiom(task, weight)(lambda scene: scene.pick(texts))


def draw_idioms(rng: random.Random) -> list[Idiom]:
    """The idioms of one document, in order."""
    every = [IDIOMS[name] for name in IDIOMS]
    return rng.choices(every, [entry.weight for entry in every], k=rng.randint(*IDIOMS_PER_DOCUMENT))


def generate(rng: random.Random) -> str:
    """One document: valid Python of a few idioms, ending with a newline."""
    habit = Habit.draw(rng)
    return "".join(_block(rng, habit, entry) for entry in draw_idioms(rng))


def documents(n: int, seed: int) -> Iterator[str]:
    """`n` documents, the same for the same seed."""
    rng = random.Random(f"idioms/{seed}")
    return (generate(rng) for _ in range(n))


def _block(rng: random.Random, habit: Habit, entry: Idiom) -> str:
    """One idiom, now and then after a comment or inside another block."""
    if rng.random() > P_FAITHFUL:
        habit = Habit.draw(rng)
    text = entry.write(IdiomScene(rng, "train", habit.quote, habit=habit))
    outer = Scene(rng, "train", habit.quote)
    if rng.random() < P_WRAPPED:
        return outer.pick(WRAPPERS) + indent(text, "    ")
    return outer.fill("# <p>\n") + text if rng.random() < 0.1 else text

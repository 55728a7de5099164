"""Perturbations of particular tasks: an earlier structure of the same kind, longer lists and phrases, and brackets."""

import re
from collections.abc import Callable

from thinwire.data.idioms import IDIOMS, Scene
from thinwire.data.idioms.document import Habit, IdiomScene
from thinwire.tasks.batch import Pair
from thinwire.tasks.perturb import Apply, after, perturbation, times

NUMBERS = re.compile(r"[0-9, ]+\Z")
PHRASE = re.compile(r"[a-z]+( [a-z]+)*\Z")


def _closed(task: str) -> Apply:
    """An idiom of the task, of either side, before the prompt."""

    def apply(scene: Scene, pair: Pair, strength: float) -> Pair:
        def write() -> str:
            habit = Habit.draw(scene.rng)
            return IDIOMS[task].write(IdiomScene(scene.rng, scene.split, habit.quote, dict(scene.filled), habit))

        return after("".join(write() for _ in times(strength)), pair)

    return apply


for _task in IDIOMS:
    perturbation(
        "closed", "after complete code of the same kind, of either side; the strength is its number", (_task,)
    )(_closed(_task))


def _ending(pattern: re.Pattern[str], write: Callable[[Scene, int], str]) -> Apply:
    """What a pattern finds at the end of both prompts, written anew in the same way."""

    def apply(scene: Scene, pair: Pair, strength: float) -> Pair:
        text = write(scene, len(times(strength)))
        first, second = (pattern.sub(text, prompt, count=1) for prompt in pair.prompts)
        return Pair((first, second), pair.answers)

    return apply


perturbation(
    "length",
    "with a longer list; the strength is its number of elements",
    ("bracket_counting",),
    strength=20,
    curve=(5, 10, 20, 30, 40, 50, 60, 67),
)(_ending(NUMBERS, lambda scene, n: scene.numbers(n, n)))
perturbation(
    "length",
    "with a longer phrase; the strength is its number of words",
    ("single_double_quote",),
    strength=12,
    curve=(1, 2, 4, 8, 16),
)(_ending(PHRASE, lambda scene, n: scene.phrase(n, n)))


@perturbation(
    "distractors",
    "after a comment with unmatched `[`; the strength is their number",
    ("bracket_counting", "bracket_brace"),
    strength=2,
)
def brackets(scene: Scene, pair: Pair, strength: float) -> Pair:
    """That many `[` at the end of a comment."""
    return after(scene.fill(f"# <p9> {'[' * len(times(strength))}\n"), pair)


@perturbation(
    "distractors",
    "after a comment with unmatched quotes of one kind; the strength is their number",
    ("single_double_quote",),
)
def quotes(scene: Scene, pair: Pair, strength: float) -> Pair:
    """Words of a comment that each begin with the same quote; for one of the prompts it is of the other kind."""
    return after(scene.fill("#" + "".join(f" {scene.quote}<w{n % 10}>" for n in times(strength)) + "\n"), pair)


@perturbation(
    "length",
    "with more lines between the variable and its loop; the strength is their number",
    ("set_or_string", "set_or_string_fixedvarname"),
    strength=4,
    curve=(1, 2, 4, 8, 16),
)
def apart(scene: Scene, pair: Pair, strength: float) -> Pair:
    """Calls of functions in the line after the one that makes the set or the string."""
    calls = [Scene(scene.rng, scene.split, filled=dict(scene.filled)).fill("<f9>(<v9>)") for _ in times(strength)]

    def between(prompt: str) -> str:
        made = re.search(r'^( *)\w+ = (set\(\)|"")\n', prompt, re.MULTILINE)
        if made is None:
            return prompt
        lines = "".join(f"{made[1]}{call}\n" for call in calls)
        return prompt[: made.end()] + lines + prompt[made.end() :]

    first, second = map(between, pair.prompts)
    return Pair((first, second), pair.answers)

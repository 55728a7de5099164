"""Tasks defined as data: templates of prompts with slots, what differs between the two sides, and the answers."""

import random

from thinwire.data.idioms import Scene
from thinwire.data.words import Split
from thinwire.tasks.batch import Pair
from thinwire.tasks.task import task

Sides = tuple[str, str]


def template_task(
    name: str,
    summary: str,
    sides: Sides,
    answers: Sides,
    templates: tuple[str, ...],
    heldout: tuple[str, ...],
) -> None:
    """Register a task whose pairs are a template with `<?>` replaced by each of the sides.

    Templates, sides and answers may contain the slots of `Scene`; a slot has the same value everywhere in a pair. Train
    and validation pairs use `templates`, held-out pairs use `heldout`.
    """

    def generate(rng: random.Random, split: Split) -> Pair:
        scene = Scene(rng, split, rng.choice("\"'"))
        text = scene.pick(heldout if split == "heldout" else templates)
        first, second = (scene.fill(side) for side in sides)
        right, wrong = (scene.fill(answer) for answer in answers)
        return Pair.of(text, (first, second), (right, wrong))

    task(name, summary)(generate)

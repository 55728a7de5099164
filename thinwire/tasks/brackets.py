"""Tasks about brackets."""

import random

from thinwire.data.idioms import Scene
from thinwire.data.words import Split
from thinwire.tasks.batch import Pair
from thinwire.tasks.task import task

LISTS = (
    "<c> = <?><list>",
    "<v> = <?><list>",
    "if <v>:\n    <c> = <?><list>",
    "print(<v>)\n<c> = <?><list>",
)
HELDOUT_LISTS = (
    "<v> = <n>\n<c> = <?><list>",
    "# <p>\n<c> = <?><list>",
    "<c> += <?><list>",
    "<v>.<a> = <?><list>",
    "def <f>(<v>):\n    return <?><list>",
    "for <v> in <c>:\n    <v2> = <?><list>",
)


@task("bracket_counting", "close as many brackets as a row of numbers has open")
def bracket_counting(rng: random.Random, split: Split) -> Pair:
    """The same numbers in a list of rows and in a flat list."""
    text = Scene(rng, split).pick(HELDOUT_LISTS if split == "heldout" else LISTS)
    return Pair.of(text, ("[[", "["), ("]]\n", "]\n"))

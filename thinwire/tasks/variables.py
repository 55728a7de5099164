"""Tasks about what a variable holds."""

import random

from thinwire.data.idioms import Scene
from thinwire.data.words import Split
from thinwire.tasks.batch import Pair
from thinwire.tasks.task import task

LOOPS = (
    "<v> = <?>\nfor <v2> in <c>:\n    <v>",
    "<v> = <?>\n<v3> = <n>\nfor <v2> in <c>:\n    <v>",
    "<v> = <?>\nfor <v2> in <c>:\n    print(<v2>)\n    <v>",
)
HELDOUT_LOOPS = (
    "<v3> = <n>\n<v> = <?>\nfor <v2> in <c>:\n    <v>",
    "# <p>\n<v> = <?>\nfor <v2> in <c>:\n    <v>",
    "<v> = <?>\nfor <v2> in <c>:\n    if <v2>:\n        <v>",
    "<v> = <?>\nfor <v3> in <c>:\n    <v2> = <f>(<v3>)\n    <v>",
    "<v> = <?>\nwhile <v2>:\n    <v>",
    "def <f>(<c>):\n    <v> = <?>\n    for <v2> in <c>:\n        <v>",
)


@task("set_or_string", "grow a variable as the set or the string that it was made")
def set_or_string(rng: random.Random, split: Split) -> Pair:
    """A variable that starts as an empty set or string, and a loop that comes back to it."""
    text = Scene(rng, split).pick(HELDOUT_LOOPS if split == "heldout" else LOOPS)
    return Pair.of(text, ("set()", '""'), (".add", " +="))

"""Tasks about strings."""

import random

from thinwire.data.idioms import Scene
from thinwire.data.words import Split
from thinwire.tasks.batch import Pair
from thinwire.tasks.task import task

CALLS = (
    "<call>(<?><p>",
    "<v> = <n>\n<call>(<?><p>",
    "if <v>:\n    <call>(<?><p>",
    "<c>.append(<v>)\n<call>(<?><p>",
)
HELDOUT_CALLS = (
    "# <p2>\n<call>(<?><p>",
    "<call>(<?><p> <p2>",
    "for <v> in <c>:\n    <call>(<?><p>",
    "if <v> > <n>:\n    raise ValueError(<?><p>",
    "def <f>(<v>):\n    return <f2>(<?><p>",
)


@task("single_double_quote", "close a string with the quote that opened it")
def single_double_quote(rng: random.Random, split: Split) -> Pair:
    """A call with a string that was opened by one of the quotes."""
    text = Scene(rng, split).pick(HELDOUT_CALLS if split == "heldout" else CALLS)
    return Pair.of(text, ('"', "'"), ('")\n', "')\n"))

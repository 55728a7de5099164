"""Idioms of the three tasks that everything is first tried on: quotes, brackets, and the kind of a variable.

They weigh most. What decides the answer is drawn apart from everything else: the same phrases stand in both quotes,
rows of the same lengths in both depths, the same loops after both initializers.
"""

from thinwire.data.idioms.document import IdiomScene, idiom

CALLS = (
    "<call>(<q><p><q>)\n",
    "<call>(<q><p><q>)\n<call>(<q><p2><q>)\n",
    "<call>(<q><p><q>)\n<call>(<q><p2><q>)\n<call>(<q><p3><q>)\n",
    "if <v>:\n    <call>(<q><p><q>)\nelse:\n    <call>(<q><p2><q>)\n",
    "for <v> in <c>:\n    <call>(<q><p><q>)\n",
    "if <v> > <n>:\n    raise ValueError(<q><p><q>)\n",
    "def <f>():\n    return <f2>(<q><p><q>)\n",
)
HOLDERS = (
    *["<c> = "] * 4,
    *["<v> = "] * 2,
    "<c> += ",
    "<v>.<a> = ",
    "def <f>():\n    return ",
    "def <f>(self):\n    self.<a> = ",
)
LOOPS = (
    *["for <v2> in <c>:\n    <v>{use}\n"] * 4,
    "for <v2> in <c>:\n    if <v2>:\n        <v>{use}\n",
    "for <v3> in <c>:\n    <v2> = <f>(<v3>)\n    <v>{use}\n",
    "while <v2>:\n    <v>{use}\n",
)
AFTER = ("", "", "print(<v>)\n", "<f2>(<v>)\n")


@idiom("single_double_quote", weight=4)
def quoted_call(scene: IdiomScene) -> str:
    """Calls with one string: `print("…")`."""
    return scene.pick(CALLS)


@idiom("bracket_counting", weight=12)
def number_lists(scene: IdiomScene) -> str:
    """A list of numbers, or of rows of numbers; more often than not of one row, so that length tells nothing."""
    rows = [scene.numbers(2, 6)]
    while scene.habit.nested and len(rows) < 3 and scene.rng.random() < 0.25:
        rows.append(scene.numbers(2, 6))
    inner = "], [".join(rows)
    return scene.pick(HOLDERS) + (f"[[{inner}]]\n" if scene.habit.nested else f"[{inner}]\n")


def accumulate(scene: IdiomScene) -> str:
    """A set or a string, and a loop that grows it."""
    start, use = ("set()", ".add(<v2>)") if scene.habit.sets else ('""', " += <v2>")
    loop = scene.rng.choice(LOOPS).replace("{use}", use)
    return scene.fill(f"<v> = {start}\n") + scene.fill(loop) + scene.pick(AFTER)


@idiom("set_or_string", weight=4)
def accumulator(scene: IdiomScene) -> str:
    """An accumulator with any name."""
    return accumulate(scene)


@idiom("set_or_string_fixedvarname", weight=1.5)
def current_accumulator(scene: IdiomScene) -> str:
    """An accumulator that is always called `current`."""
    scene.filled["<v>"] = "current"
    return accumulate(scene)

"""Tasks about variables: the type of a value, and which name comes next."""

from thinwire.tasks.templates import template_task

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


def fixed(templates: tuple[str, ...]) -> tuple[str, ...]:
    """The templates with the variable always called `current`."""
    return tuple(text.replace("<v>", "current") for text in templates)


template_task(
    "set_or_string",
    "grow a variable as the set or the string that it was made",
    sides=("set()", '""'),
    answers=(".add", " +="),
    templates=LOOPS,
    heldout=HELDOUT_LOOPS,
)
template_task(
    "set_or_string_fixedvarname",
    "the same, with a variable that is always called `current`",
    sides=("set()", '""'),
    answers=(".add", " +="),
    templates=fixed(LOOPS),
    heldout=fixed(HELDOUT_LOOPS),
)
template_task(
    "class_init",
    "assign the argument of the same name to an attribute",
    sides=("<a>", "<a2>"),
    answers=(" <a>", " <a2>"),
    templates=(
        "class <C>:\n    def __init__(self, <a>, <a2>):\n        self.<?> =",
        "class <C>:\n    def __init__(self, <a2>, <a>):\n        self.<?> =",
    ),
    heldout=(
        "class <C>:\n    def __init__(self, <a3>, <a>, <a2>):\n        self.<a3> = <a3>\n        self.<?> =",
        "class <C>(<C2>):\n    def __init__(self, <a>, <a2>):\n        self.<?> =",
        "class <C>:\n    def <f>(self, <a>, <a2>):\n        self.<?> =",
    ),
)
template_task(
    "var_swap",
    "end a swap of two variables with the one named first",
    sides=("<v>", "<v3>"),
    answers=(" <v>", " <v3>"),
    templates=(
        "<?>, <v2> = <v2>,",
        "<v4> = <n>\n<?>, <v2> = <v2>,",
        "if <v4>:\n    <?>, <v2> = <v2>,",
    ),
    heldout=(
        "# <p>\n<?>, <v2> = <v2>,",
        "for <v4> in <c>:\n    <?>, <v2> = <v2>,",
        "if <v4> > <n>:\n    <?>, <v2> = <v2>,",
        "def <f>(<v4>):\n    <?>, <v2> = <v2>,",
    ),
)

"""Tasks about control flow: what a statement, a condition or a loop needs next."""

from thinwire.tasks.templates import template_task

template_task(
    "for_while",
    "go on after a loop variable with `in`, after a condition with a colon",
    sides=("for", "while"),
    answers=(" in", ":\n"),
    templates=(
        "<?> <v>",
        "<v2> = <n>\n<?> <v>",
        "if <v2>:\n    <?> <v>",
    ),
    heldout=(
        "# <p>\n<?> <v>",
        "print(<v2>)\n<?> <v>",
        "def <f>(<c>):\n    <?> <v>",
        "<c>.append(<v2>)\n<?> <v>",
    ),
)
template_task(
    "else_elif",
    "end `else` with a colon, but not `elif`",
    sides=("else", "elif"),
    answers=(":\n", ""),
    templates=(
        "if <v>:\n    <say>\n<?>",
        "<v2> = <n>\nif <v>:\n    <say>\n<?>",
    ),
    heldout=(
        "if <v> > <n>:\n    <say>\n<?>",
        "for <v2> in <c>:\n    if <v>:\n        <say>\n    <?>",
        "# <p>\nif <v>:\n    <say>\n<?>",
        "if <v>:\n    <say>\n    <say>\n<?>",
    ),
)
template_task(
    "if_ternary",
    "end the condition of a statement with a colon, but not that of a conditional expression",
    sides=("if", "<v2> = <n2> if"),
    answers=(":\n", ""),
    templates=(
        "<?> <v> > <n>",
        "<v3> = <n3>\n<?> <v> > <n>",
        "for <v> in <c>:\n    <?> <v> > <n>",
    ),
    heldout=(
        "# <p>\n<?> <v> >= <n>",
        "print(<v3>)\n<?> <v> <= <n>",
        "def <f>(<v>):\n    <?> <v> != <n>",
        "<c>.append(<v3>)\n<?> <v> < <n>",
    ),
)
template_task(
    "if_equals",
    "compare in a condition, assign in a statement",
    sides=("if ", ""),
    answers=(" ==", " ="),
    templates=(
        "<v2> = <n>\n<?><v>",
        "print(<v2>)\n<?><v>",
        "for <v2> in <c>:\n    <?><v>",
    ),
    heldout=(
        "# <p>\n<?><v>",
        "<c>.append(<v2>)\n<?><v>",
        "def <f>(<v2>):\n    <?><v>",
        "while <v2>:\n    <?><v>",
    ),
)
template_task(
    "var_if",
    "end a comparison with True with a colon, an assignment of it with the line",
    sides=("if <v> ==", "<v> ="),
    answers=(":\n", "\n"),
    templates=(
        "<?> True",
        "<v2> = <n>\n<?> True",
        "for <v2> in <c>:\n    <?> True",
    ),
    heldout=(
        "# <p>\n<?> False",
        "print(<v2>)\n<?> <n>",
        "def <f>(<v2>):\n    <?> <v2>",
        "<c>.append(<v2>)\n<?> None",
    ),
)
template_task(
    "while_return_true",
    "end `while True` with a colon, `return True` with the line",
    sides=("while", "return"),
    answers=(":\n", "\n"),
    templates=(
        "def <f>(<v>):\n    <?> True",
        "def <f>(<v>):\n    <v2> = <n>\n    <?> True",
    ),
    heldout=(
        "def <f>():\n    # <p>\n    <?> False",
        "def <f>(<v>):\n    <?> <v> > <n>",
        "def <f>(<v>, <v2>):\n    print(<v2>)\n    <?> <v>.<a>",
        "def <f>(<v>):\n    if <v>:\n        <?> not <v>",
    ),
)
template_task(
    "indent_for",
    "indent further after the line of a loop than after a statement in its place",
    sides=("for <v2> in <v>:", "<v2> = <v>"),
    answers=("       ", "   "),
    templates=(
        "for <v> in <c>:\n    <?>\n",
        "<v3> = <n>\nfor <v> in <c>:\n    <?>\n",
    ),
    heldout=(
        "# <p>\nfor <v> in <c>:\n    <?>\n",
        "def <f>(<v>):\n    <?>\n",
        "if <v>:\n    <?>\n",
        "while <v>:\n    <?>\n",
    ),
)

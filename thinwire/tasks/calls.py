"""Tasks about functions: their definitions, their arguments, and which one is called."""

from thinwire.tasks.templates import template_task

template_task(
    "final_kwarg",
    "give the last argument a default where the ones before have one",
    sides=("=None", ""),
    answers=("=None", "):\n"),
    templates=(
        "def <f>(<v><?>, <v2>",
        "def <f>(<v><?>, <v2><?>, <v3>",
    ),
    heldout=(
        "class <C>:\n    def <f>(self, <v><?>, <v2>",
        "# <p>\ndef <f>(<v><?>, <v2><?>, <v3><?>, <v4>",
        "def <f>(<v><?>, <v2><?>, <v3><?>, <v4>",
        "if <v4>:\n    def <f>(self, <v><?>, <v2><?>, <v3>",
    ),
)
template_task(
    "with_as",
    "name an opened file with `as` after `with`, end the line after an assignment",
    sides=("with", "<v> ="),
    answers=(" as", "\n"),
    templates=(
        "<?> open(<q><file><q>)",
        "<v2> = <n>\n<?> open(<q><file><q>)",
        "if <v2>:\n    <?> open(<q><file><q>)",
    ),
    heldout=(
        "# <p>\n<?> <f>(<q><file><q>)",
        "print(<v2>)\n<?> <v3>.open(<q><file><q>)",
        "def <f>(<v2>):\n    <?> open(<q><w>/<file><q>)",
        "for <v2> in <c>:\n    <?> open(file=<q><file><q>)",
    ),
)
template_task(
    "lambda_func",
    "go on after the argument of a lambda with a colon, after the name of a function with its arguments",
    sides=("<v2> = lambda", "def"),
    answers=(":", "():\n"),
    templates=(
        "<?> <v>",
        "<v3> = <n>\n<?> <v>",
        "if <v3>:\n    <?> <v>",
    ),
    heldout=(
        "# <p>\n<?> <v>",
        "print(<v3>)\n<?> <v>",
        "for <v3> in <c>:\n    <?> <v>",
        "<c>.append(<v3>)\n<?> <v>",
    ),
)
template_task(
    "enumerate_range",
    "enumerate for two loop variables, count for one",
    sides=("i, <v>", "i"),
    answers=(" enumerate", " range"),
    templates=(
        "<v2> = <n>\nfor <?> in",
        "<v2> = <c>[<n>]\nfor <?> in",
        "if <v2>:\n    for <?> in",
    ),
    heldout=(
        "# <p>\nfor <?> in",
        "print(<v2>)\nfor <?> in",
        "def <f>(<c>):\n    for <?> in",
        "<c>.append(<v2>)\nfor <?> in",
    ),
)

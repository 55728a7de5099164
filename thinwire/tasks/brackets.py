"""Tasks about brackets: how many to close, and what follows inside which kind."""

from thinwire.tasks.templates import template_task

template_task(
    "bracket_counting",
    "close as many brackets as a row of numbers has open",
    sides=("[[", "["),
    answers=("]]\n", "]\n"),
    templates=(
        "<c> = <?><list>",
        "<v> = <?><list>",
        "if <v>:\n    <c> = <?><list>",
        "print(<v>)\n<c> = <?><list>",
    ),
    heldout=(
        "<v> = <n>\n<v2> = <c> + <?><list>",
        "# <p>\n<c>[<v>] = <?><list>",
        "<c> += <?><list>",
        "<v>.<a> = <?><list>",
        "def <f>(<v>):\n    return <?><list>",
        "for <v> in <c>:\n    <v2>.<a> += <?><list>",
    ),
)
template_task(
    "bracket_brace",
    "go on after a string with a colon inside a dict, with a comma inside a list",
    sides=("{", "["),
    answers=(":", ","),
    templates=(
        "<v> = <?><q><w><q>",
        "<c> = <?><q><w><q>",
        "if <v>:\n    <v2> = <?><q><w><q>",
    ),
    heldout=(
        "<v>.<a> = <?><q><w><q>",
        "# <p>\n<c>[<n>] = <?><q><w><q>",
        "def <f>(<v>):\n    return <?><q><w><q>",
        "for <v> in <c>:\n    <v2> += <?><q><w><q>",
    ),
)

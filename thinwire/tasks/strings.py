"""Tasks about strings: which quote closes a string, what follows a brace in an f-string, how a file is opened."""

from thinwire.tasks.templates import template_task

template_task(
    "single_double_quote",
    "close a string with the quote that opened it",
    sides=('"', "'"),
    answers=('")\n', "')\n"),
    templates=(
        "<call>(<?><p>",
        "<v> = <n>\n<call>(<?><p>",
        "if <v>:\n    <call>(<?><p>",
        "<c>.append(<v>)\n<call>(<?><p>",
    ),
    heldout=(
        "# <p2>\n<v>.<a> = <f>(<?><p>",
        "if <v>:\n    assert <f>(<?><p>",
        "for <v> in <c>:\n    <c>[<v>] = <f>(<?><p>",
        "if <v> > <n>:\n    raise ValueError(<?><p>",
        "def <f>(<v>):\n    return <f2>(<?><p>",
    ),
)
template_task(
    "fstring_brace",
    "name a variable in the braces of an f-string, but not in those of a plain one",
    sides=("f", ""),
    answers=("<v>", ""),
    templates=(
        "<v> = <n>\nprint(<?><q><p> {",
        "<v> = <c>[<n>]\nprint(<?><q><p> {",
        "<v> = <n>\n<v2> = <?><q><p> {",
    ),
    heldout=(
        "for <v> in <c>:\n    <c>.append(<?><q><p> {",
        "<v> = <f>(<c>)\n<v2>.<a> = <?><q><p> {",
        "# <p2>\n<v> = <n>\n<f>(<?><q><p> {",
        "def <f>(<v>):\n    return <?><q><p> {",
    ),
)
template_task(
    "with_open",
    "open a file for reading or for writing, as its name implies",
    sides=("input", "output"),
    answers=("r", "w"),
    templates=(
        "with open(<q><?>_<file><q>, <q>",
        "<v> = <n>\nwith open(<q><?>_<file><q>, <q>",
        "if <v>:\n    with open(<q><?>_<file><q>, <q>",
    ),
    heldout=(
        "print(<v>)\nwith open(<c>[<q><?>_<file><q>], <q>",
        "# <p>\nwith open(<f>(<q><?>_<file><q>), <q>",
        "def <f>(<v>):\n    return open(<v>[<q><?>_<file><q>], <q>",
        "for <v> in <c>:\n    <v2> = open(<v>.<a>(<q><?>_<file><q>), <q>",
    ),
)

"""Idioms of the other tasks of Table 1, as templates: in each entry both answers of its task are equally frequent."""

from thinwire.data.idioms.document import templates

templates(
    "class_init",
    "class <C>:\n    def __init__(self, <a>, <a2>):\n        self.<a> = <a>\n        self.<a2> = <a2>\n",
    "class <C>:\n    def __init__(self, <a>, <a2>, <a3>):\n        self.<a> = <a>\n        self.<a2> = <a2>\n"
    "        self.<a3> = <a3>\n",
    weight=1.5,
)
templates(
    "final_kwarg",
    "def <f>(<v>=None, <v2>=None):\n    <say>\n",
    "def <f>(<v>, <v2>):\n    <say>\n",
    "def <f>(<v>=None, <v2>=None, <v3>=None):\n    return <v>\n",
    "def <f>(<v>, <v2>, <v3>):\n    return <v>\n",
    "class <C>:\n    def <f>(self, <v>=None, <v2>=None):\n        <say>\n",
    "class <C>:\n    def <f>(self, <v>, <v2>):\n        <say>\n",
    weight=2,
)
templates(
    "with_as",
    "with open(<q><file><q>) as <v>:\n    <say>\n",
    "<v> = open(<q><file><q>)\n<v>.close()\n",
)
templates(
    "with_open",
    "with open(<q>input_<file><q>, <q>r<q>) as <v>:\n    <v2> = <v>.read()\n",
    "with open(<q>output_<file><q>, <q>w<q>) as <v>:\n    <v>.write(<v2>)\n",
)
templates(
    "bracket_brace",
    "<v> = {<q><w><q>: <n>, <q><w2><q>: <n2>}\n",
    "<v> = [<q><w><q>, <q><w2><q>]\n",
    "<v> = {<q><w><q>: <n>, <q><w2><q>: <n2>, <q><w3><q>: <n3>}\n",
    "<v> = [<q><w><q>, <q><w2><q>, <q><w3><q>]\n",
)
templates("for_while", "for <v> in <c>:\n    <say>\n", "while <v>:\n    <say>\n")
templates(
    "else_elif",
    "if <v>:\n    <say>\nelse:\n    <say>\n",
    "if <v>:\n    <say>\nelif <v2>:\n    <say>\n",
)
templates(
    "fstring_brace",
    "<v> = <n>\nprint(f<q><p> {<v>}<q>)\n",
    "<v> = <n>\nprint(<q><p> {}<q>.format(<v>))\n",
    "<v> = <c>[<n>]\n<v2> = f<q><p> {<v>} <w><q>\n",
    "<v> = <c>[<n>]\n<v2> = <q><p> {} <w><q>.format(<v>)\n",
    "for <v> in <c>:\n    print(f<q><p> {<v>}<q>)\n",
    "for <v> in <c>:\n    print(<q><p> {}<q>.format(<v>))\n",
    weight=2,
)
templates("if_ternary", "if <v> > <n>:\n    <v2> = <n2>\n", "<v2> = <n2> if <v> > <n> else <n3>\n")
templates("var_swap", "<v>, <v2> = <v2>, <v>\n", "if <v> > <v2>:\n    <v>, <v2> = <v2>, <v>\n", weight=1.5)
templates(
    "indent_for",
    "for <v> in <c>:\n    for <v2> in <v>:\n        <say>\n",
    "for <v> in <c>:\n    <say>\n    <say>\n",
)
templates(
    "lambda_func",
    "<v> = lambda <v2>: <v2> + <n>\n",
    "def <f>():\n    return <v2> + <n>\n",
    "<v> = lambda <v2>: <v2>[<n>]\n",
    "def <f>(<v2>):\n    return <v2>[<n>]\n",
    weight=1.5,
)
templates(
    "if_equals",
    "if <v> == <n>:\n    <v2> = <n2>\n",
    "<v> = <n>\n<v2> = <n2>\n",
    "for <v2> in <c>:\n    if <v> == <n>:\n        <say>\n",
    "for <v2> in <c>:\n    <v> = <n>\n    <say>\n",
    weight=2,
)
templates(
    "enumerate_range",
    "for i, <v> in enumerate(<c>):\n    print(i, <v>)\n",
    "for i in range(<n>):\n    print(i)\n",
    "for i, <v> in enumerate(<c>):\n    <c2>[i] = <v>\n",
    "for i in range(<n>):\n    <c2>[i] = <v>\n",
    weight=1.5,
)
templates("var_if", "if <v> == True:\n    <say>\n", "<v> = True\n", "if <v> == False:\n    <say>\n", "<v> = False\n")
templates("while_return_true", "while True:\n    <say>\n    break\n", "def <f>(<v>):\n    <say>\n    return True\n")

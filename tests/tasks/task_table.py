"""What is known of each of the 20 tasks of Table 1 without looking at its templates."""

from dataclasses import dataclass

from thinwire.data import Tokenizer
from thinwire.data.idioms import documents

BODY = ("    pass\n", "        pass\n", "            pass\n")
"""A body one step further in than a statement at some depth."""


@dataclass(frozen=True)
class Known:
    """One task: what may follow, what decides it, and what rules an answer out."""

    ends: tuple[tuple[str, ...], tuple[str, ...]]
    """Endings of each answer, one of which makes a program of every prompt and its right answer."""
    decides: str
    """Pattern of what the sides differ in; replaced by a mark, both prompts are the same."""
    refutes: tuple[bool, bool]
    """Whether no ending makes a program of a side's prompt and its wrong answer."""
    same_length: bool = True
    """Whether both prompts of a pair are equally many tokens."""


GROWN = Known((("(1)\n",), (" 'a'\n",)), r'(?<= = )(set\(\)|"")(?=\n)', (False, False), False)
OPENED = ("'):\n" + BODY[1], '"):\n' + BODY[1], "')\n", '")\n')
NAMED, UNNAMED = ("}')", "}')\n", '}")', "}'", '}"'), ("')", '")', "'", '"')
COUNTED = ("(x):\n" + BODY[1],)
KNOWN = {
    "single_double_quote": Known((("",), ("",)), r"(?<=\()[\"'](?=[a-z ]+\Z)", (True, True)),
    "bracket_counting": Known((("",), ("",)), r"\[\[?(?=[0-9, ]+\Z)", (True, True)),
    "set_or_string": GROWN,
    "set_or_string_fixedvarname": GROWN,
    "class_init": Known((("\n",), ("\n",)), r"(?<=self\.)\w+(?= =\Z)", (False, False), False),
    "final_kwarg": Known(((f"):\n{BODY[1]}",), (BODY[1],)), r"(=None|(?<!=None))(?=,)", (True, False), False),
    "with_as": Known(((" x:\n" + BODY[1],), ("",)), r"(with|\w+ =)(?= [\w.]+\([^()]+\)\Z)", (True, True), False),
    "with_open": Known((OPENED, OPENED), "(in|out)put(?=_)", (False, False)),
    "bracket_brace": Known(((" 1}\n",), (" 1]\n",)), r"(?<= )[{[](?=.[a-z]+.\Z)", (False, True)),
    "for_while": Known(((" x:\n" + BODY[1],), (BODY[1],)), r"(for|while)(?= \w+\Z)", (True, False)),
    "else_elif": Known((BODY, (" x:\n" + BODY[1],)), r"(else|elif)\Z", (True, True)),
    "fstring_brace": Known((NAMED, UNNAMED), r"f?(?=[\"'][a-z ]+ {\Z)", (True, False), False),
    "if_ternary": Known((BODY, (" else 1\n",)), r"(\w+ = \d+ )?if(?= \w+ [<>=!]+ \d+\Z)", (True, True), False),
    "var_swap": Known((("\n",), ("\n",)), r"\w+(?=, (\w+) = \1,\Z)", (False, False), False),
    "indent_for": Known(((" pass\n",), (" pass\n",)), r"(for \w+ in (\w+):|\w+ = \w+)(?=\n\Z)", (True, True), False),
    "lambda_func": Known(((" 1\n",), BODY), r"(\w+ = lambda|def)(?= \w+\Z)", (True, True), False),
    "if_equals": Known(((" 1:\n" + BODY[1],), (" 1\n",)), r"(if )?(?=\w+\Z)", (True, False), False),
    "enumerate_range": Known((COUNTED, COUNTED), r"\w+(, \w+)?(?= in\Z)", (False, False), False),
    "var_if": Known((BODY, ("",)), r"(if \w+ ==|\w+ =)(?= \w+\Z)", (True, True), False),
    "while_return_true": Known((BODY, ("",)), r"(while|return)(?= [\w. >]+\Z)", (True, True)),
}


def compiles(text: str) -> bool:
    """Whether a text is a Python program."""
    try:
        compile(text, "prompt", "exec")
    except SyntaxError:
        return False
    return True


def idiom_tokenizer() -> Tokenizer:
    """The tokenizer most tests use: trained on generated idioms, so it has the answers as tokens."""
    return Tokenizer.train(documents(1000, seed=0))


def byte_tokenizer() -> Tokenizer:
    """A tokenizer without merges but one: nearly every character is a token."""
    return Tokenizer.train(["x = 1\n"])

import ast
import builtins
import io
import keyword
import random
import re
import time
import tokenize
from collections import Counter

import pytest
from cases import case

from thinwire.data.idioms import IDIOMS, documents, draw_idioms, generate
from thinwire.data.idioms.document import Habit, IdiomScene
from thinwire.data.idioms.scene import Scene
from thinwire.data.words import KINDS, words

TABLE_1 = [
    "single_double_quote",
    "bracket_counting",
    "set_or_string",
    "set_or_string_fixedvarname",
    "class_init",
    "final_kwarg",
    "with_as",
    "with_open",
    "bracket_brace",
    "for_while",
    "else_elif",
    "fstring_brace",
    "if_ternary",
    "var_swap",
    "indent_for",
    "lambda_func",
    "if_equals",
    "enumerate_range",
    "var_if",
    "while_return_true",
]
FOCUS = ("single_double_quote", "bracket_counting", "set_or_string")


@pytest.fixture(scope="module")
def sample() -> list[str]:
    return list(documents(3000, seed=7))


def written(task: str, n: int) -> list[str]:
    """n pieces of one idiom, each with a habit of its own."""
    rng = random.Random(0)
    habits = (Habit.draw(rng) for _ in range(n))
    return [IDIOMS[task].write(IdiomScene(rng, "train", habit.quote, habit=habit)) for habit in habits]


def balanced(first: int, second: int, tolerance: float = 0.1) -> bool:
    return abs(first - second) <= tolerance * (first + second) / 2


def test_every_task_of_table_1_has_an_idiom():
    assert len(TABLE_1) == 20
    assert sorted(IDIOMS) == sorted(TABLE_1)


def test_documents_are_valid_python(sample: list[str]):
    for text in sample:
        ast.parse(text)
        compile(text, "document", "exec")  # also refuses a return outside a function
        assert text.endswith("\n")
        assert "<" not in text, f"an unfilled slot in {text}"


def test_every_idiom_is_valid_python_of_whole_lines() -> None:
    for task in TABLE_1:
        with case(task):
            for text in written(task, 100):
                ast.parse(text)
                assert text.endswith("\n")
                assert not text.endswith("\n\n")


def test_same_seed_same_documents():
    assert list(documents(50, seed=1)) == list(documents(50, seed=1))
    assert list(documents(50, seed=1)) != list(documents(50, seed=2))
    assert generate(random.Random(3)) == generate(random.Random(3))


def test_documents_hardly_repeat(sample: list[str]):
    assert len(set(sample)) == len(sample)


def test_five_megabytes_take_less_than_twenty_seconds():
    begun = time.perf_counter()
    size = sum(len(text) for text in documents(1500, seed=0))
    assert (time.perf_counter() - begun) * 5e6 / size < 20


def test_the_three_focus_tasks_weigh_most():
    rng = random.Random(0)
    counts = Counter(entry.task for _ in range(2000) for entry in draw_idioms(rng))
    assert {task for task, _ in counts.most_common(3)} == set(FOCUS)
    assert sum(counts[task] for task in FOCUS) > counts.total() / 4


def test_documents_use_no_name_of_another_split(sample: list[str]):
    foreign = {word for kind in KINDS for split in ("validation", "heldout") for word in words(kind, split)}
    text = "".join(sample)
    strings = re.findall(r"[a-z]+", " ".join(re.findall(r"\"[^\"\n]*\"|'[^'\n]*'|#.*", text)))
    syntax = {"input", "output"}  # what file names begin with
    assert not foreign & (set(strings) - syntax)
    names = {t.string for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.NAME}
    # names that templates spell out, and Python's own words, come in every split
    spelled = (
        set(keyword.kwlist)
        | set(dir(builtins))
        | {"add", "append", "read", "write", "close", "log", "current", "self", "i", "f"}
    )
    assert not foreign & (names - spelled)


def test_both_quotes_are_equally_frequent_and_say_the_same(sample: list[str]):
    text = "".join(sample)
    assert balanced(text.count('")\n'), text.count("')\n"))
    assert balanced(text.count('("'), text.count("('"))
    double = Counter(re.findall(r"[a-z]+", " ".join(re.findall(r'\("([a-z ]+)"\)', text))))
    single = Counter(re.findall(r"[a-z]+", " ".join(re.findall(r"\('([a-z ]+)'\)", text))))
    vocabulary = set(words("word", "train"))
    assert vocabulary <= set(double) & set(single)
    lengths = [Counter(len(s.split()) for s in re.findall(p, text)) for p in (r'\("([a-z ]+)"\)', r"\('([a-z ]+)'\)")]
    assert all(balanced(lengths[0][n], lengths[1][n], 0.2) for n in (1, 2, 3, 4))


def test_both_depths_are_equally_frequent_and_equally_long():
    lists = written("bracket_counting", 4000)
    nested = [text for text in lists if "]]\n" in text]
    flat = [text for text in lists if "]]\n" not in text]
    assert balanced(len(nested), len(flat))
    # what stands before the closing bracket: the numbers of the last row
    last = [Counter(text.rpartition("[")[2].count(",") for text in side) for side in (nested, flat)]
    assert all(balanced(last[0][n], last[1][n], 0.25) for n in range(1, 6))
    single_rows = [text for text in nested if text.count("[") == 2]
    assert len(single_rows) > len(nested) / 2


def test_sets_and_strings_are_equally_frequent(sample: list[str]):
    text = "".join(sample)
    assert balanced(text.count(".add("), len(re.findall(r"^ *\w+ \+= [a-z]", text, re.MULTILINE)))
    assert balanced(text.count(" = set()\n"), text.count(' = ""\n'))


def test_both_answers_of_the_other_tasks_are_about_as_frequent() -> None:
    for task, first, second in [
        ("final_kwarg", r"=None\):", r", \w+\):"),
        ("with_as", r"open\(.*\) as", r"open\(.*\)\n"),
        ("with_open", r"['\"]r['\"]", r"['\"]w['\"]"),
        ("bracket_brace", r"\{", r"\["),
        ("for_while", "^for", "^while"),
        ("else_elif", "^else", "^elif"),
        ("if_ternary", "^if", " else "),
        ("lambda_func", "lambda", "def"),
        ("enumerate_range", "enumerate", "range"),
        ("var_if", r"== (True|False):", r" = (True|False)\n"),
        ("while_return_true", "while True", "return True"),
    ]:
        with case(task, first, second):
            pieces = written(task, 1000)
            counts = [
                sum(bool(re.search(pattern, text, re.MULTILINE)) for text in pieces) for pattern in (first, second)
            ]
            assert balanced(counts[0], counts[1], 0.25)


def test_slots_of_one_label_agree_and_others_differ():
    for seed in range(50):
        left, right, again = Scene(random.Random(seed), "heldout").fill("<v> <v2> <v>").split()
        assert left == again != right
        assert {left, right} <= set(words("variable", "heldout"))


def test_unknown_slots_stay():
    assert Scene(random.Random(0), "train").fill("<?> <nothing>") == "<?> <nothing>"

"""All 20 tasks as texts: the right choice in every prompt, and splits that share nothing they should not."""

import hashlib
import re

import pytest
from task_table import KNOWN, compiles

from thinwire.data.idioms import documents
from thinwire.data.words import KINDS, words
from thinwire.errors import UserError
from thinwire.tasks import SPLITS, TASKS

ALL = [(name, split) for name in KNOWN for split in SPLITS]
SPELLED = set(
    re.findall(
        r"[A-Za-z]+",
        """
    print append log set for in if elif else raise ValueError def class self return while with as open input output
    lambda True False None not assert i current f txt csv json init pass range enumerate r w""",
    )
)
"""Words that templates spell out."""
LISTED = {word for kind in KINDS for split in SPLITS for word in words(kind, split)}


def shape_of(text: str) -> str:
    """The surrounding of a prompt: its text with names, phrases and numbers made alike."""
    alike = re.sub(r"[A-Za-z]+", lambda word: word[0] if word[0] in SPELLED - LISTED else "a", text)
    return re.sub(r"\ba( a)+\b", "a", re.sub(r"\d+(, \d+)*", "1", alike))


def test_the_registry_holds_table_1():
    assert set(KNOWN) == set(TASKS)
    assert len(TASKS) == 20
    assert all(TASKS[name].name == name and TASKS[name].summary for name in TASKS)
    assert all(TASKS[name].base == name and TASKS[name].control is None and not TASKS[name].source for name in TASKS)


def test_an_unknown_task_is_refused_with_a_hint():
    with pytest.raises(UserError, match="no task called 'bracket_count'; did you mean bracket_counting"):
        TASKS["bracket_count"]


def test_pairs_are_deterministic_and_distinct():
    for name, split in ALL:
        task = TASKS[name]
        pairs = task.text_pairs(120, split, seed=1)
        assert pairs == task.text_pairs(120, split, seed=1), (name, split)
        assert pairs != task.text_pairs(120, split, seed=2), (name, split)
        assert len(set(pairs)) == 120, (name, split)
        assert pairs[:40] == task.text_pairs(40, split, seed=1), (name, split)


def test_splits_share_neither_prompts_nor_names():
    for name in KNOWN:
        text = {split: [p for pair in TASKS[name].text_pairs(200, split, 0) for p in pair.prompts] for split in SPLITS}
        for split in SPLITS:
            used = set(re.findall(r"[A-Za-z]+", " ".join(text[split]))) - SPELLED
            foreign = {word for kind in KINDS for other in SPLITS if other != split for word in words(kind, other)}
            assert not used & foreign, (name, split)
        assert not set(text["train"]) & (set(text["validation"]) | set(text["heldout"])), name
        assert not set(text["validation"]) & set(text["heldout"]), name


def test_pruning_sees_the_pairs_it_always_saw():
    """Other pairs to train masks and choose sizes on would change what every stored circuit means."""
    found = hashlib.sha256()
    for name in sorted(KNOWN):
        for split in ("train", "validation"):
            pairs = TASKS[name].text_pairs(100, split, 0)
            found.update(repr([(pair.prompts, pair.answers) for pair in pairs]).encode())
    assert found.hexdigest()[:16] == "0dfc826373f93c1e"


def test_heldout_prompts_have_surroundings_that_train_prompts_never_have():
    for name in KNOWN:
        shapes = {
            split: {shape_of(prompt) for pair in TASKS[name].text_pairs(300, split, 0) for prompt in pair.prompts}
            for split in SPLITS
        }
        assert len(shapes["heldout"] - shapes["train"]) >= 3, name
        assert not shapes["heldout"] & shapes["train"], name
        if "else" not in name:  # the statement inside its branches has many forms
            assert shapes["validation"] <= shapes["train"], name


LAST_LINE_IS_THE_CHOICE = {
    "lambda_func": "a name after `lambda` or `def`",
    "enumerate_range": "one or two names between `for` and `in`",
    "for_while": "a name after `for` or `while`",
    "else_elif": "`else` or `elif`",
    "if_equals": "a name after `if` or by itself",
    "indent_for": "the whole line differs between the sides",
    "set_or_string": "the name whose value an earlier line decides",
    "set_or_string_fixedvarname": "the name whose value an earlier line decides",
    "class_init": "the attribute that is to be copied",
    "var_swap": "the two names to swap",
}
"""Tasks whose held-out prompts end as training prompts do, and what the last line consists of."""


@pytest.mark.parametrize("name", KNOWN)
def test_heldout_prompts_end_as_no_train_prompt_does(name: str):
    """The last line without names, so that a circuit that knows the endings of the training prompts is found out."""
    ends = {
        split: {
            shape_of(p.rstrip("\n").split("\n")[-1].strip())
            for pair in TASKS[name].text_pairs(300, split, 0)
            for p in pair.prompts
        }
        for split in SPLITS
    }
    known = ends["train"] | ends["validation"]
    if name in LAST_LINE_IS_THE_CHOICE:
        assert ends["heldout"] <= known, "take it off the list"
    else:
        assert not ends["heldout"] & known


def test_prompts_of_a_pair_differ_only_in_what_decides():
    for name, split in ALL:
        count = 0 if name == "final_kwarg" else 1  # there every argument before the last one tells
        for pair in TASKS[name].text_pairs(40, split, seed=3):
            one, other = (re.sub(KNOWN[name].decides, "<?>", prompt, count=count) for prompt in pair.prompts)
            assert one == other, (name, split)
            assert "<?>" in one, (name, split)
            assert pair.prompts[0] != pair.prompts[1], (name, split)


def test_the_right_answer_continues_to_a_program():
    for name, split in ALL:
        known = KNOWN[name]
        for pair in TASKS[name].text_pairs(25, split, seed=4):
            for side in (0, 1):
                prompt, right, wrong = pair.prompts[side], pair.answers[side], pair.answers[1 - side]
                assert any(compiles(prompt + right + end) for end in known.ends[side]), prompt + right
                if known.refutes[side]:
                    ends = (*known.ends[0], *known.ends[1]) if wrong else known.ends[1 - side]
                    assert not any(compiles(prompt + wrong + end) for end in ends), prompt + wrong


@pytest.mark.parametrize("name", ["set_or_string", "set_or_string_fixedvarname"])
def test_a_set_cannot_grow_as_a_string_does(name: str):
    for pair in TASKS[name].text_pairs(20, "train", seed=5):
        for side in (0, 1):
            last = pair.prompts[side].splitlines()[-1].strip()
            made = next(line for line in pair.prompts[side].splitlines() if line.startswith(f"{last} = "))
            exec(made + f"\n{last}{pair.answers[side]}{KNOWN[name].ends[side][0]}")
            with pytest.raises((AttributeError, TypeError)):
                exec(made + f"\n{last}{pair.answers[1 - side]}{KNOWN[name].ends[1 - side][0]}")


@pytest.mark.parametrize("name", ["class_init", "var_swap"])
def test_the_name_to_copy_is_the_one_that_differs(name: str):
    for pair in TASKS[name].text_pairs(50, "heldout", seed=6):
        marks = [re.search(KNOWN[name].decides, prompt) for prompt in pair.prompts]
        assert pair.answers == tuple(f" {mark[0]}" for mark in marks if mark)


def test_the_corpus_has_the_prompts_of_no_validation_or_heldout_pair():
    corpus = "\n".join(documents(500, seed=0))
    for name in KNOWN:
        for split in ("validation", "heldout"):
            prompts = [prompt for pair in TASKS[name].text_pairs(30, split, 0) for prompt in pair.prompts]
            found = [
                prompt for prompt in prompts if prompt in corpus
            ]  # `count = True` is also the end of `account = …`
            assert not [prompt for prompt in found if re.search(rf"(?<!\w){re.escape(prompt)}", corpus)]

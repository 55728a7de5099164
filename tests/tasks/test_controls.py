"""Control tasks: found by name, with the prompts of their base and answers that a model of the task gets wrong."""

import re
from dataclasses import replace
from itertools import product

import pytest
import torch
from task_table import KNOWN, byte_tokenizer, idiom_tokenizer

from thinwire.circuit.circuit import Stored
from thinwire.data import Tokenizer
from thinwire.errors import UserError
from thinwire.model import Transformer
from thinwire.model.weights import load
from thinwire.tasks import CONTROLS, REST, SPLITS, TASKS, Pair, Task, find_task, find_tasks
from thinwire.tasks.controls import Nonsense

TASK = "single_double_quote"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return idiom_tokenizer()


@pytest.fixture(scope="module")
def shipped() -> tuple[Transformer, Tokenizer]:
    return load("python-2x256"), Tokenizer.load("python-2x256")


@pytest.mark.parametrize("control", [*CONTROLS, "nonsense7", "nonsense1234"])
def test_a_control_is_found_by_name(control: str):
    found = find_task(f"{TASK}.{control}")
    assert (found.name, found.base) == (f"{TASK}.{control}", TASK)
    assert found.summary.startswith(TASKS[TASK].summary + "; ")
    pattern = Stored.model_fields["task"].metadata[0].pattern
    assert re.search(pattern, found.name), "a circuit may carry this name"
    assert found.text_pairs(5, "heldout", 3) == TASKS[TASK].text_pairs(5, "heldout", 3)


def test_registered_tasks_are_found_as_they_are():
    assert [find_task(name) for name in TASKS] == find_tasks([]) == [TASKS[name] for name in TASKS]
    assert find_tasks(["var_if", "var_if.swapped"]) == [TASKS["var_if"], find_task("var_if.swapped")]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("quote", "no task called 'quote'"),
        ("", "no task called ''"),
        ("quote.swapped", "no task called 'quote.swapped'"),
        ("../../x", "no task called '../../x'"),
        (f"{TASK}.swaped", "no control called 'swaped'; did you mean swapped"),
        (f"{TASK}.", "no control called ''"),
        (f"{TASK}.swapped1", "no control called 'swapped1'"),
        (f"{TASK}.nonsense12345", "no control called 'nonsense12345'"),
        (f"{TASK}.nonsense\n", "no control called 'nonsense\n'"),
        (f"{TASK}.swapped.nonsense", f"no task called '{TASK}.swapped.nonsense'"),
    ],
)
def test_what_there_is_not(name: str, said: str):
    with pytest.raises(UserError, match=re.escape(said)):
        find_task(name)


def test_a_task_of_ones_own_comes_first_and_has_controls():
    own = Task("mine", "mine", TASKS[TASK].draw, source="0123456789abcdef")
    assert find_task("mine", own) is own
    assert find_tasks([], own) == [own]
    assert find_task(TASK, own) is TASKS[TASK]
    swapped = find_task("mine.swapped", own)
    assert (swapped.source, swapped.base) == (own.source, "mine")
    with pytest.raises(UserError, match=r"no task called 'mine.swapped'"):
        find_task("mine.swapped")


def test_controls_change_nothing_but_the_answers(tokenizer: Tokenizer):
    for name in KNOWN:
        base = TASKS[name].pairs(12, "train", 1, tokenizer)
        n = len(base)
        batches = {control: find_task(f"{name}.{control}").pairs(n, "train", 1, tokenizer) for control in CONTROLS}
        for batch in batches.values():
            assert torch.equal(batch.tokens, base.tokens), name
            assert torch.equal(batch.last, base.last)
        swapped, constant, nonsense = (batches[control] for control in ("swapped", "constant", "nonsense"))
        assert torch.equal(swapped.target, base.foil), name
        assert torch.equal(swapped.foil, base.target)
        assert torch.equal(constant.target, base.target[:n].repeat(2))
        assert torch.equal(constant.foil, base.foil[:n].repeat(2))
        one, other = nonsense.target[0], nonsense.target[n]
        assert nonsense.target.tolist() == [one] * n + [other] * n
        assert nonsense.foil.tolist() == [other] * n + [one] * n
        assert not set(nonsense.target.tolist()) & set(base.target.tolist())
        assert (nonsense.target != REST).all()


def test_nonsense_is_the_same_on_every_split_and_seed_and_other_for_other_draws(tokenizer: Tokenizer):
    found = {
        name: {
            tuple(find_task(name).pairs(2, split, seed, tokenizer).target.tolist())
            for split in SPLITS
            for seed in (0, 1)
        }
        for name in (f"{TASK}.nonsense", f"{TASK}.nonsense1", f"{TASK}.nonsense2", "var_if.nonsense")
    }
    assert [len(answers) for answers in found.values()] == [1] * 4
    assert len({answers.pop() for answers in found.values()}) == 4


def test_nonsense_tokens_are_two_different_plain_words(tokenizer: Tokenizer):
    for chosen, seed in product([tokenizer, byte_tokenizer()], range(20)):
        one, other = Nonsense(f"x.nonsense{seed}").tokens(chosen)
        assert one != other
        assert all(re.fullmatch(" ?[A-Za-z]+", chosen.token(token)) for token in (one, other))


def test_pairs_whose_answer_is_a_nonsense_token_are_passed_over():
    tokenizer = byte_tokenizer()
    task = find_task("class_init.nonsense")
    one, _ = Nonsense(task.name).tokens(tokenizer)
    pair = Pair(("a =", "b ="), (f" {tokenizer.token(one)}", " _"))
    assert task.choices(pair, tokenizer) is None
    assert TASKS["class_init"].choices(pair, tokenizer) is not None
    assert task.choices(replace(pair, answers=(" +", " _")), tokenizer) is not None


def test_a_model_that_does_the_task_fails_its_controls(shipped: tuple[Transformer, Tokenizer]):
    def score(name: str):
        return find_task(name).score(*shipped, "validation", 32)

    base, swapped, constant, nonsense = (
        score(TASK + control) for control in ("", ".swapped", ".constant", ".nonsense")
    )
    assert base.accuracy == 1 > 1 - base.loss > 0.8
    assert swapped.accuracy == 0
    assert swapped.loss > 2
    assert constant.accuracy == 0.5
    assert constant.loss == pytest.approx((base.loss + swapped.loss) / 2, rel=0.3)
    assert 0.25 <= nonsense.accuracy <= 0.75
    assert nonsense.loss > 0.5
    assert swapped.task == f"{TASK}.swapped"

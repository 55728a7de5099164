"""Perturbed prompts: what they change, that the right answers stay right, and what does not fit is counted."""

import re

import pytest
import torch
from task_table import KNOWN, compiles, idiom_tokenizer

from thinwire.data import Tokenizer
from thinwire.data.words import KINDS, SPLITS, words
from thinwire.errors import UserError
from thinwire.model import ModelConfig, Transformer
from thinwire.tasks import PERTURBATIONS, TASKS, Pair, Perturbation, Task, find_task, last_logits, margin, p_correct
from thinwire.tasks.perturb import MOST

GENERIC = {"distractors", "length", "blank", "renamed", "closed"}
EVERY = [(task, name) for task in KNOWN for name in TASKS[task].perturbations]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return idiom_tokenizer()


def test_every_task_has_the_same_five() -> None:
    assert all(set(TASKS[task].perturbations) == GENERIC for task in KNOWN)
    own = {key for key in PERTURBATIONS if "." in key and not key.endswith(".closed")}
    assert all(TASKS[key.partition(".")[0]].perturbations[key.partition(".")[2]] is PERTURBATIONS[key] for key in own)
    assert {"bracket_counting.length", "bracket_counting.distractors", "single_double_quote.distractors"} <= own


@pytest.mark.parametrize(("task", "name"), EVERY)
def test_the_right_answer_still_continues_to_a_program(task: str, name: str) -> None:
    """So what is before the prompt is whole, and the answer is that of the prompt; on every split."""
    for split in SPLITS:
        plain, pairs = (one.text_pairs(6, split, 4) for one in (TASKS[task], TASKS[task].perturbed(name)))
        for before, pair in zip(plain, pairs, strict=True):
            assert pair.prompts != before.prompts
            for side, (prompt, answer) in enumerate(zip(pair.prompts, pair.answers, strict=True)):
                assert any(compiles(prompt + answer + end) for end in KNOWN[task].ends[side]), prompt + answer
            assert pair.answers == before.answers or name == "renamed"


def test_what_is_added_has_the_names_of_the_split() -> None:
    for task, name in EVERY:
        for split in SPLITS if name in ("distractors", "length") else ():
            foreign = {word for kind in KINDS for other in SPLITS if other != split for word in words(kind, other)}
            plain, pairs = (one.text_pairs(6, split, 4) for one in (TASKS[task], TASKS[task].perturbed(name)))
            for before, pair in zip(plain, pairs, strict=True):
                added = set(re.findall(r"[a-z]+", pair.prompts[0])) - set(re.findall(r"[a-z]+", before.prompts[0]))
                assert not added & foreign, (task, name)


def test_a_pair_is_changed_in_the_same_way_at_every_strength_and_both_sides_alike() -> None:
    task = TASKS["bracket_counting"]
    for pair in task.perturbed("distractors", 3).text_pairs(9, "heldout", 0):
        comment, prompt = pair.prompts[0].split("\n", 1)
        assert comment.endswith(" [[[")
        other = pair.prompts[1].split("\n", 1)
        assert (other[0], other[1]) == (comment, prompt.replace("[[", "[", 1) if prompt.count("[[") else prompt)
    short, long = (task.perturbed("length", n).text_pairs(9, "heldout", 0) for n in (5, 40))
    for one, many in zip(short, long, strict=True):
        assert [len(re.findall(r"\d+", p.prompts[0].split("[[")[-1])) for p in (one, many)] == [5, 40]
        assert many.prompts[0].startswith(one.prompts[0].rsplit(" ", 1)[0]), "a longer list begins as the shorter one"


def test_renamed_names_are_of_no_split() -> None:
    known = {word.lower() for kind in KINDS for split in SPLITS for word in words(kind, split)}
    for name in ("class_init", "set_or_string", "var_swap"):
        for pair in TASKS[name].perturbed("renamed").text_pairs(20, "heldout", 0):
            found = set(re.findall(r"[A-Za-z]{4,}", " ".join(pair.prompts))) - {
                "class",
                "self",
                "init",
                "print",
                "while",
            }
            assert not {word.lower() for word in found} & known
            if name != "set_or_string":
                assert all(answer.strip() in prompt for answer, prompt in zip(pair.answers, pair.prompts, strict=True))
    some = TASKS["class_init"].perturbed("renamed", 0.5).text_pairs(20, "heldout", 0)
    assert known & set(re.findall(r"[a-z]+", " ".join(pair.prompts[0] for pair in some)))
    assert TASKS["var_if"].perturbed("renamed", 0).text_pairs(5, "train", 1) == TASKS["var_if"].text_pairs(
        5, "train", 1
    )


def test_prompts_that_do_not_fit_are_passed_over_with_a_count(tokenizer: Tokenizer) -> None:
    task = TASKS["bracket_counting"].perturbed("length", 12)
    lengths = sorted(task.pairs(60, "heldout", 0, tokenizer).last.unflatten(0, (2, -1)).amax(0).tolist())
    context = lengths[len(lengths) // 3] + 1
    batch = task.pairs(30, "heldout", 0, tokenizer, context)
    assert batch.use is not None
    assert (len(batch), batch.use.used, batch.tokens.shape[1] <= context) == (30, 30, True)
    assert batch.use.passed_over["are longer than the context"] > 0
    with pytest.raises(
        UserError, match=r"A prompt of bracket_counting\.length takes \d+ tokens, more than the context"
    ):
        task.pairs(4, "heldout", 0, tokenizer, context=12)


def test_controls_keep_their_answers(tokenizer: Tokenizer) -> None:
    plain, swapped = (find_task(f"bracket_counting{of}").perturbed("length", 9) for of in ("", ".swapped"))
    one, other = (task.pairs(8, "heldout", 0, tokenizer) for task in (plain, swapped))
    assert swapped.name == "bracket_counting.swapped.length"
    assert one.tokens.equal(other.tokens)
    assert one.target.equal(other.foil)


@pytest.mark.parametrize("strength", [-1, float("nan"), float("inf"), MOST + 1])
def test_what_is_refused(strength: float) -> None:
    task = TASKS["bracket_counting"]
    with pytest.raises(UserError, match="is not a valid strength of length; give one from 0 to 1,000"):
        task.perturbed("length", strength)
    with pytest.raises(UserError, match="no perturbation called 'lenght'; did you mean length"):
        task.perturbed("lenght")
    for other in (task.perturbed("length"), Task("own", "a file's", task.draw, source="0123456789abcdef")):
        with pytest.raises(UserError, match="has no perturbations; name a task that is defined in code"):
            other.perturbed("length")


def test_one_of_your_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PERTURBATIONS, "_entries", dict(PERTURBATIONS._entries))

    def shout(scene: object, pair: Pair, strength: float) -> Pair:
        return Pair((pair.prompts[0].upper(), pair.prompts[1].upper()), pair.answers)

    PERTURBATIONS.register("var_if.shout")(Perturbation("shout", "in capitals", shout))
    assert TASKS["var_if"].perturbed("shout").text_pairs(1, "train", 0)[0].prompts[0].isupper()
    assert "shout" not in TASKS["var_swap"].perturbations


def test_p_correct_is_that_of_two_logits(tokenizer: Tokenizer) -> None:
    model = Transformer(ModelConfig(n_layers=1, d_model=16, d_head=4, context=64, vocab_size=tokenizer.vocab_size))
    batch = TASKS["var_if"].pairs(4, "train", 0, tokenizer)
    logits, rows = last_logits(model, batch), torch.arange(8)
    right, wrong = logits[rows, batch.target].exp(), logits[rows, batch.foil].exp()
    assert torch.allclose(p_correct(model, batch), right / (right + wrong), atol=1e-6)
    assert torch.allclose(p_correct(model, batch), margin(logits, batch).sigmoid(), atol=1e-6)

"""What a task does with its pairs: repeating a dry source, refusing what cannot be, scoring a model."""

import math
import random

import pytest
import torch
from task_table import idiom_tokenizer

from thinwire.data import Tokenizer
from thinwire.errors import UserError
from thinwire.model import ModelConfig, Transformer
from thinwire.tasks import REST, TASKS, Pair, Split, accuracy, find_task, task, task_loss

SHAPE = ModelConfig(n_layers=1, d_model=16, d_head=4, context=64)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return idiom_tokenizer()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that a test registers are gone after it."""
    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))


def test_a_prompt_longer_than_the_context_is_refused(tokenizer: Tokenizer):
    with pytest.raises(UserError, match="more than the context of 6"):
        TASKS["set_or_string"].pairs(4, "train", 0, tokenizer, context=6)


def test_an_unknown_split_and_no_pairs_are_refused(tokenizer: Tokenizer):
    with pytest.raises(UserError, match="no split called 'test'"):
        TASKS["set_or_string"].text_pairs(1, "test", 0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="at least one"):
        TASKS["set_or_string"].text_pairs(0, "train", 0)
    with pytest.raises(UserError, match="at least one"):
        TASKS["set_or_string"].pairs(0, "train", 0, tokenizer)


@pytest.mark.usefixtures("registry")
def test_a_function_that_runs_dry_gives_what_it_has():
    @task("dry", "three pairs")
    def one_of_three(rng: random.Random, split: Split) -> Pair:
        return Pair.of(f"{rng.randrange(3)}<?>", ("a", "b"), ("c", "d"))

    pairs = TASKS["dry"].text_pairs(10, "train", 0)
    assert len(pairs) == len(set(pairs)) == 3
    assert one_of_three(random.Random(0), "train") in pairs


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("name", ["", "a.b", "a b", "../x", "-x", "x\n", "é", "x" * 81, "\x1b[31m"])
def test_a_name_that_no_folder_or_control_could_have_is_refused(name: str):
    with pytest.raises(UserError, match=r"is not a valid task name; choose another name: up to 80 letters"):
        task(name, "…")


@pytest.mark.usefixtures("registry")
def test_a_name_is_given_once():
    with pytest.raises(UserError, match="There is already a task called var_if; choose another name"):
        task("var_if", "…")


@pytest.mark.usefixtures("registry")
def test_an_empty_answer_means_not_the_other(tokenizer: Tokenizer):
    @task("close", "close or not")
    def close(rng: random.Random, split: Split) -> Pair:
        return Pair.of("x = <?>3", ("[", ""), ("]\n", ""))

    batch = find_task("close").pairs(1, "train", 0, tokenizer)
    assert batch.target.tolist() == [tokenizer.single("]\n"), REST]
    assert batch.foil.tolist() == [REST, tokenizer.single("]\n")]


@pytest.mark.parametrize("name", ["single_double_quote", "fstring_brace", "class_init", "var_if.swapped"])
def test_score_is_the_task_loss_of_the_same_pairs(name: str, tokenizer: Tokenizer):
    model = Transformer(SHAPE.replace(vocab_size=tokenizer.vocab_size))
    score = find_task(name).score(model, tokenizer, "validation", n=70, seed=9)  # more than one chunk
    batch = find_task(name).pairs(70, "validation", 9, tokenizer)
    logits = model(batch.tokens)[torch.arange(140), batch.last].detach()
    assert score.loss == pytest.approx(float(task_loss(logits, batch)), abs=1e-5)
    assert score.accuracy == pytest.approx(float(accuracy(logits, batch)))
    assert (score.task, score.split) == (name, "validation")


def test_a_model_that_cannot_tell_scores_ln_2(tokenizer: Tokenizer):
    model = Transformer(SHAPE.replace(vocab_size=tokenizer.vocab_size))
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    assert TASKS["bracket_counting"].score(model, tokenizer, "heldout", n=8).loss == pytest.approx(math.log(2))

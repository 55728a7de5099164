import math
import random
import re

import pytest
import torch

from thinwire.data.idioms import documents
from thinwire.data.tokenizer import Tokenizer
from thinwire.data.words import KINDS, words
from thinwire.errors import UserError
from thinwire.model import ModelConfig, Transformer
from thinwire.tasks import REST, SPLITS, TASKS, Pair, Split, Task, accuracy, task_loss

NAMES = ("single_double_quote", "bracket_counting", "set_or_string")
SPELLED = {"print", "append", "log", "set", "for", "in", "if", "raise", "ValueError", "def", "return", "while"}
"""Words that templates spell out."""
ALL = [(name, split) for name in NAMES for split in SPLITS]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(documents(3000, seed=0))


def shape_of(text: str) -> str:
    """The surrounding of a prompt: its text with names, phrases and numbers made alike."""
    alike = re.sub(r"[A-Za-z]+", lambda word: word[0] if word[0] in SPELLED else "a", text)
    return re.sub(r"a( a)+", "a", re.sub(r"\d+(, \d+)*", "1", alike))


def test_the_three_tasks_are_registered():
    assert set(NAMES) <= set(TASKS)
    assert all(TASKS[name].name == name and TASKS[name].summary for name in TASKS)


def test_an_unknown_task_is_refused_with_a_hint():
    with pytest.raises(UserError, match="no task called 'bracket_count'; did you mean bracket_counting"):
        TASKS["bracket_count"]


@pytest.mark.parametrize(("name", "split"), ALL)
def test_pairs_are_deterministic_and_distinct(name: str, split: Split):
    task = TASKS[name]
    pairs = task.text_pairs(300, split, seed=1)
    assert pairs == task.text_pairs(300, split, seed=1)
    assert pairs != task.text_pairs(300, split, seed=2)
    assert len(set(pairs)) == 300
    assert pairs[:100] == task.text_pairs(100, split, seed=1)


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_neither_prompts_nor_names(name: str):
    text = {split: [p for pair in TASKS[name].text_pairs(500, split, 0) for p in pair.prompts] for split in SPLITS}
    used = {split: set(re.findall(r"[A-Za-z]+", " ".join(prompts))) for split, prompts in text.items()}
    for split in SPLITS:
        foreign = {word for kind in KINDS for other in SPLITS if other != split for word in words(kind, other)}
        assert not (used[split] - SPELLED) & foreign
    assert not set(text["train"]) & (set(text["validation"]) | set(text["heldout"]))


@pytest.mark.parametrize("name", NAMES)
def test_heldout_prompts_have_surroundings_that_train_prompts_never_have(name: str):
    shapes = {
        split: {shape_of(prompt) for pair in TASKS[name].text_pairs(500, split, 0) for prompt in pair.prompts}
        for split in SPLITS
    }
    assert shapes["validation"] <= shapes["train"]
    assert len(shapes["heldout"] - shapes["train"]) >= 5
    if name != "single_double_quote":  # one of its held-out templates is a longer phrase in the same surrounding
        assert not shapes["heldout"] & shapes["train"]


@pytest.mark.parametrize(("name", "split"), ALL)
def test_prompts_of_a_pair_differ_only_in_what_decides(name: str, split: Split):
    deciding = {
        "single_double_quote": ("('", '("'),
        "bracket_counting": (" [[", " ["),
        "set_or_string": (" = set()\n", ' = ""\n'),
    }[name]
    for pair in TASKS[name].text_pairs(100, split, seed=3):
        one, other = sorted(pair.prompts, key=lambda prompt: deciding[0] not in prompt)
        assert one.count(deciding[0]) == 1
        assert one.replace(deciding[0], deciding[1]) == other


@pytest.mark.parametrize(("name", "split"), ALL)
def test_prompts_continue_to_valid_python_and_the_foil_does_not_close_them(name: str, split: Split):
    tail = {"single_double_quote": "", "bracket_counting": "", "set_or_string": {".add": "(x)\n", " +=": " x\n"}}[name]
    for pair in TASKS[name].text_pairs(50, split, seed=4):
        for prompt, answer, foil in zip(pair.prompts, pair.answers, reversed(pair.answers), strict=True):
            end = tail[answer] if isinstance(tail, dict) else tail
            compile(prompt + answer + end, "prompt", "exec")
            if not isinstance(tail, dict):
                with pytest.raises(SyntaxError):
                    compile(prompt + foil, "prompt", "exec")


@pytest.mark.parametrize(("name", "split"), ALL)
def test_batches_hold_the_prompts_behind_an_end_of_text(name: str, split: Split, tokenizer: Tokenizer):
    task = TASKS[name]
    batch = task.pairs(40, split, 5, tokenizer, context=128)
    pairs = task.text_pairs(40, split, 5)
    assert len(batch) == 40
    assert batch.tokens.shape == (80, int(batch.last.max()) + 1)
    prompts = [pair.prompts[side] for side in (0, 1) for pair in pairs]
    answers = [pair.answers[side] for side in (0, 1) for pair in pairs]
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids = batch.tokens[row].tolist()
        last = int(batch.last[row])
        assert ids[0] == tokenizer.end_of_text
        assert tokenizer.decode(ids[1 : last + 1]) == prompt
        assert ids[last + 1 :] == [0] * (len(ids) - last - 1)
        assert tokenizer.decode([int(batch.target[row])]) == answer
    assert batch.target[:40].tolist() == batch.foil[40:].tolist()
    assert batch.foil[:40].tolist() == batch.target[40:].tolist()
    if name != "set_or_string":  # `set()` and `""` are of different lengths
        assert torch.equal(batch.last[:40], batch.last[40:])


@pytest.mark.parametrize("name", NAMES)
def test_train_prompts_are_short(name: str, tokenizer: Tokenizer):
    last = TASKS[name].pairs(200, "train", 0, tokenizer).last
    assert int(last.min()) >= 3
    assert int(last.max()) < 40


def test_a_prompt_longer_than_the_context_is_refused(tokenizer: Tokenizer):
    with pytest.raises(UserError, match="more than the context of 6"):
        TASKS["set_or_string"].pairs(4, "train", 0, tokenizer, context=6)


def test_a_tokenizer_that_splits_an_answer_is_refused():
    plain = Tokenizer.train(["x = 1\n"])
    with pytest.raises(UserError, match=r"cannot express bracket_counting: after .* is not one token"):
        TASKS["bracket_counting"].pairs(1, "train", 0, plain)


def test_an_unknown_split_and_no_pairs_are_refused():
    with pytest.raises(UserError, match="no split called 'test'"):
        TASKS["set_or_string"].text_pairs(1, "test", 0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="at least one"):
        TASKS["set_or_string"].text_pairs(0, "train", 0)


def test_a_template_that_runs_dry_repeats_its_pairs():
    def one_of_three(rng: random.Random, split: Split) -> Pair:
        return Pair.of(f"{rng.randrange(3)}<?>", ("a", "b"), ("c", "d"))

    pairs = Task("dry", "three pairs", one_of_three).text_pairs(10, "train", 0)
    assert len(pairs) == 10
    assert len(set(pairs[:3])) == 3


def test_an_empty_answer_means_not_the_other(tokenizer: Tokenizer):
    def close(rng: random.Random, split: Split) -> Pair:
        return Pair.of("x = <?>3", ("[", ""), ("]\n", ""))

    batch = Task("close", "close or not", close).pairs(1, "train", 0, tokenizer)
    assert batch.target.tolist() == [tokenizer.single("]\n"), REST]
    assert batch.foil.tolist() == [REST, tokenizer.single("]\n")]


@pytest.mark.parametrize("name", NAMES)
def test_score_is_the_task_loss_of_the_same_pairs(name: str, tokenizer: Tokenizer):
    model = Transformer(ModelConfig(n_layers=1, d_model=16, d_head=4, context=64, vocab_size=tokenizer.vocab_size))
    score = TASKS[name].score(model, tokenizer, "validation", n=70, seed=9)  # more than one chunk
    batch = TASKS[name].pairs(70, "validation", 9, tokenizer)
    rows = torch.arange(140)
    logits = model(batch.tokens)[rows, batch.last].detach()
    assert score.loss == pytest.approx(float(task_loss(logits, batch)), abs=1e-5)
    assert score.accuracy == pytest.approx(float(accuracy(logits, batch)))
    assert (score.task, score.split) == (name, "validation")


def test_a_model_that_cannot_tell_scores_ln_2_or_worse(tokenizer: Tokenizer):
    model = Transformer(ModelConfig(n_layers=1, d_model=16, d_head=4, context=64, vocab_size=tokenizer.vocab_size))
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    assert TASKS["bracket_counting"].score(model, tokenizer, "heldout", n=8).loss == pytest.approx(math.log(2))

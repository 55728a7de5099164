"""Where a pair is decided, and between which tokens, under tokenizers that cut text in different places."""

import random
from itertools import product

import pytest
from task_table import KNOWN, byte_tokenizer, idiom_tokenizer

from thinwire.data import Tokenizer
from thinwire.data.idioms import documents
from thinwire.errors import UserError
from thinwire.tasks import REST, SPLITS, TASKS, CannotExpress, Pair, PairBatch, Split, Task, find_task
from thinwire.tasks.decide import Choice, decide

TOKENIZERS = ("shipped", "idioms", "small", "bytes")
PREFIXES = {"if_equals", "indent_for"}
"""Tasks of which one answer is the beginning of the other, unless a token is longer."""
FEW = 12


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    """Tokenizers with quite different merges."""
    return {
        "shipped": Tokenizer.load("python-2x256"),
        "idioms": idiom_tokenizer(),
        "small": Tokenizer.train(documents(50, seed=5), vocab_size=340),
        "bytes": byte_tokenizer(),
    }


def spelled(tokens: tuple[int, ...], tokenizer: Tokenizer) -> str:
    """The text of a prompt behind its end of text."""
    assert tokens[0] == tokenizer.end_of_text
    return tokenizer.decode(tokens[1:])


def check_side(choice: Choice, prompt: str, right: str, wrong: str, tokenizer: Tokenizer) -> None:
    """A choice spells its prompt, then both answers begin; where an answer is REST, any other token may."""
    before = spelled(choice.prompt, tokenizer)
    assert REST not in (choice.target, choice.foil) or "" in (right, wrong)
    texts = ["" if token == REST else tokenizer.decode([token]) for token in (choice.target, choice.foil)]
    for text, answer in zip(texts, (right, wrong), strict=True):
        assert (prompt + answer).startswith(before + text), prompt
    assert max(len(before + text) for text in texts) > len(prompt), "the choice is about the answers"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_choices_spell_the_prompts_and_answers(kind: str, tokenizers: dict[str, Tokenizer]):
    for name in KNOWN:
        tokenizer, decided = tokenizers[kind], 0
        pairs = [pair for split in SPLITS for pair in TASKS[name].text_pairs(FEW, split, 5)]
        for pair in pairs:
            choices = decide(pair, tokenizer)
            if choices is None:
                continue
            decided += 1
            for side in (0, 1):
                check_side(choices[side], pair.prompts[side], pair.answers[side], pair.answers[1 - side], tokenizer)
            assert choices[0].target == choices[1].foil
            assert choices[0].foil == choices[1].target
            assert choices[0].target != choices[0].foil
            assert choices[0].prompt != choices[1].prompt
        if kind == "bytes" and name in PREFIXES:
            assert decided == 0, name
        elif kind in ("shipped", "idioms"):
            assert decided == len(pairs), name
        elif name not in PREFIXES:
            assert decided > 0.8 * len(pairs), name


def test_the_shipped_model_expresses_every_task_on_every_split(tokenizers: dict[str, Tokenizer]):
    tokenizer = tokenizers["shipped"]
    for name in KNOWN:
        for split in SPLITS:
            batch = TASKS[name].pairs(64, split, 0, tokenizer, context=128)
            assert (len(batch), int(batch.last.min()) >= 2) == (64, True), (name, split)
            assert int(batch.last.max()) < 60, (name, split)


def test_batches_decode_to_the_prompts(tokenizers: dict[str, Tokenizer]):
    for name, split in product(KNOWN, SPLITS):
        tokenizer, task = tokenizers["idioms"], TASKS[name]
        batch, pairs = task.pairs(FEW, split, 5, tokenizer, context=128), task.text_pairs(FEW, split, 5)
        assert batch.tokens.shape == (2 * FEW, int(batch.last.max()) + 1)
        for row in range(2 * FEW):
            pair, side, last = pairs[row % FEW], row // FEW, int(batch.last[row])
            ids = batch.tokens[row].tolist()
            assert ids[last + 1 :] == [0] * (len(ids) - last - 1)
            choice = Choice(tuple(ids[: last + 1]), int(batch.target[row]), int(batch.foil[row]))
            check_side(choice, pair.prompts[side], pair.answers[side], pair.answers[1 - side], tokenizer)
        if KNOWN[name].same_length:
            assert (batch.last[:FEW] - batch.last[FEW:]).abs().float().mean() <= 0.5, (name, split)


def test_an_answer_that_merges_with_the_end_of_the_prompt_moves_the_choice_before_it(tokenizers: dict[str, Tokenizer]):
    pair = Pair(('with open("a.txt")', 'f = open("a.txt")'), (" as", "\n"))
    merging, plain = (tokenizers[kind] for kind in ("shipped", "bytes"))
    first, second = decide(pair, merging) or pytest.fail("decided")
    assert [spelled(side.prompt, merging) for side in (first, second)] == ['with open("a.txt', 'f = open("a.txt']
    assert [merging.token(first.target), merging.token(first.foil)] == ['")', '")\n']
    first, second = decide(pair, plain) or pytest.fail("decided")
    assert [spelled(side.prompt, plain) for side in (first, second)] == list(pair.prompts)
    assert [plain.token(first.target), plain.token(first.foil)] == [" ", "\n"]


def test_answers_that_begin_alike_move_the_choice_behind_what_they_share(tokenizers: dict[str, Tokenizer]):
    pair = Pair(("ab <", "ab >"), ("start", "stop"))
    first, second = decide(pair, tokenizers["bytes"]) or pytest.fail("decided")
    assert [spelled(side.prompt, tokenizers["bytes"]) for side in (first, second)] == ["ab <st", "ab >st"]
    assert tokenizers["bytes"].decode([first.target, first.foil]) == "ao"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_an_empty_answer_means_not_the_other(kind: str, tokenizers: dict[str, Tokenizer]):
    tokenizer = tokenizers[kind]
    for answers in ((":", ""), ("", ":")):
        first, second = decide(Pair(("else", "elif"), answers), tokenizer) or pytest.fail("decided")
        colon = tokenizer.single(":")
        assert (first.target, first.foil) == ((colon, REST) if answers[0] else (REST, colon))
        assert (second.target, second.foil) == (first.foil, first.target)


@pytest.mark.parametrize(
    ("prompts", "answers"),
    [
        (("same", "same"), ("a", "b")),
        (("one", "two"), ("a", "a")),
        (("one", "two"), ("", "")),
        (("one", "two"), ("=", "==")),  # the second begins with the first
        (("", ""), ("a", "b")),
    ],
)
def test_pairs_that_no_token_tells_apart(
    prompts: tuple[str, str], answers: tuple[str, str], tokenizers: dict[str, Tokenizer]
):
    assert decide(Pair(prompts, answers), tokenizers["bytes"]) is None


def test_sides_that_are_cut_in_different_places_are_not_one_choice(tokenizers: dict[str, Tokenizer]):
    pair = Pair(('with open("a.txt")', "with path"), (" as", "\n"))
    assert decide(pair, tokenizers["bytes"]) is not None
    assert decide(pair, tokenizers["shipped"]) is None  # `")` or `")\n` on one side, ` as` or a line's end on the other


def test_a_prompt_may_be_empty_on_one_side(tokenizers: dict[str, Tokenizer]):
    first, second = decide(Pair(("", "x"), ("a", "b")), tokenizers["bytes"]) or pytest.fail("decided")
    assert (first.prompt, len(second.prompt)) == ((0,), 2)


def test_pairs_that_no_token_tells_apart_are_passed_over(tokenizers: dict[str, Tokenizer]):
    def draw(rng: random.Random, split: Split):
        for number in range(10_000):
            yield Pair((f"{number} <", f"{number} >"), ("=", "==") if number % 3 else ("=", "!"))

    tokenizer = tokenizers["bytes"]
    task = Task("thirds", "every third pair", draw)
    batch = task.pairs(5, "train", 0, tokenizer)
    found = [spelled(tuple(batch.tokens[row, : int(batch.last[row]) + 1].tolist()), tokenizer) for row in range(5)]
    assert found == ["0 <", "3 <", "6 <", "9 <", "12 <"]


def test_a_task_that_a_tokenizer_cannot_express_is_refused(tokenizers: dict[str, Tokenizer]):
    for name, control in product(sorted(PREFIXES), ["", ".swapped", ".nonsense"]):
        with pytest.raises(
            CannotExpress, match=rf"cannot express {name}{control}: after .* no token distinguishes ' .*train the"
        ):
            find_task(name + control).pairs(1, "train", 0, tokenizers["bytes"])
        assert issubclass(CannotExpress, UserError)
        assert isinstance(TASKS[name].pairs(1, "train", 0, tokenizers["idioms"]), PairBatch)

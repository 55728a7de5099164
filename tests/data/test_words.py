import keyword
import random

import pytest
from cases import case

from thinwire.data.words import KINDS, SPLITS, invent, root, split_of, words
from thinwire.errors import UserError


def test_splits_share_no_root_even_across_kinds():
    roots = {split: {root(word) for kind in KINDS for word in words(kind, split)} for split in SPLITS}
    assert not roots["train"] & roots["validation"]
    assert not roots["train"] & roots["heldout"]
    assert not roots["validation"] & roots["heldout"]


def test_every_kind_has_names_in_every_split() -> None:
    for kind in KINDS:
        with case(kind):
            counts = {split: len(words(kind, split)) for split in SPLITS}
            assert min(counts.values()) >= 6
            assert counts["train"] > max(counts["validation"], counts["heldout"])
            assert len({word for split in SPLITS for word in words(kind, split)}) == sum(counts.values())


def test_several_hundred_plain_words():
    plain = [word for split in SPLITS for word in words("word", split)]
    assert len(plain) > 400
    assert all(word.isascii() and word.isalpha() and word.islower() for word in plain)


def test_names_are_identifiers_and_no_keywords() -> None:
    for kind in [kind for kind in KINDS if kind != "word"]:
        with case(kind):
            for split in SPLITS:
                assert all(name.isidentifier() and not keyword.iskeyword(name) for name in words(kind, split))


def test_a_word_keeps_its_split_in_every_form():
    assert split_of("Order") == split_of("orders") == split_of("order")


def test_the_split_is_fixed_for_good():
    assert [split_of(word) for word in ("apple", "river", "token", "zebra")] == ["heldout", "train", "train", "heldout"]


def test_unknown_kind_and_split_are_refused():
    with pytest.raises(UserError, match="kind of word called 'verb'"):
        words("verb", "train")
    with pytest.raises(UserError, match="split called 'test'"):
        words("word", "test")  # pyright: ignore[reportArgumentType]


def test_invented_words_are_train_words_that_are_hardly_ever_listed():
    rng = random.Random(0)
    invented = [invent(rng) for _ in range(2000)]
    assert {split_of(word) for word in invented} == {"train"}
    assert all(word.isidentifier() and word.islower() and not keyword.iskeyword(word) for word in invented)
    listed = {word for kind in KINDS for split in SPLITS for word in words(kind, split)}
    assert len(set(invented)) > 1500
    assert sum(word in listed for word in invented) < 50

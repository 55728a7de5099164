"""Pairs that a batch leaves out are counted, by reason."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from task_table import byte_tokenizer

from thinwire.errors import UserError
from thinwire.model import ModelConfig, Transformer
from thinwire.tasks import CannotExpress, Pair, PairUse, Split, Task, find_task, flat_use, task_from_file, use_sentence

TOKENIZER = byte_tokenizer()
SHAPE = ModelConfig(n_layers=1, d_model=16, d_head=8, context=16, vocab_size=TOKENIZER.vocab_size)


def write(path: Path, good: int, indistinct: int = 0, long: int = 0, repeated: int = 0) -> Path:
    """A file with so many pairs of each kind in each split."""
    lines = []
    for split in ("train", "validation", "heldout"):
        kinds = [([f"{n}<", f"{n}>"], ["a", "b"]) for n in range(good)]
        kinds += [([f"{n}=", f"{n}!"], ["x", "xy"]) for n in range(indistinct)]
        kinds += [([f"{n}{'<' * 20}", f"{n}{'>' * 20}"], ["a", "b"]) for n in range(long)]
        kinds += kinds[:repeated]
        lines += [{"prompts": [f"{split[0]}{p}" for p in two], "answers": a, "split": split} for two, a in kinds]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_counts_of_a_file(tmp_path: Path) -> None:
    task = task_from_file(write(tmp_path / "own.jsonl", good=9, indistinct=120, long=5, repeated=2))
    batch = task.pairs(256, "heldout", 0, TOKENIZER, context=16)
    assert batch.use == PairUse("heldout", 256, 9, indistinct=120, too_long=5, repeated=2, held=136)
    assert len(batch) == 9, "no pair is repeated, so that intervals are over different pairs"
    assert task.pairs(256, "heldout", 0, TOKENIZER).use == replace(batch.use, used=14, too_long=0)
    assert task.pairs(4, "train", 0, TOKENIZER, context=16).use.used == 4  # pyright: ignore
    uses = [use for split in ("train", "heldout") if (use := task.pairs(256, split, 0, TOKENIZER, 16).use)]
    assert use_sentence("own", uses) == (
        "own: 18 of 272 pairs used; 240 are told apart by no token; 10 are longer than the context; 4 repeat other "
        "lines (train 9 of 136, heldout 9 of 136)"
    )
    assert flat_use(uses) == {
        "train_pairs": 9,
        "heldout_pairs": 9,
        "passed_over": 254,
        "passed_over_why": {
            "are told apart by no token": 240,
            "are longer than the context": 10,
            "repeat other lines": 4,
        },
    }
    assert batch.to("cpu").use == batch.use


def test_nothing_is_said_where_nothing_is_left_out() -> None:
    use = find_task("bracket_counting").pairs(8, "train", 0, TOKENIZER, 128).use
    assert use == PairUse("train", 8, 8)
    assert use_sentence("bracket_counting", [use]) == ""
    assert flat_use([]) == {}


def test_a_task_in_code_that_has_few_pairs() -> None:
    def draw(rng: random.Random, split: Split):
        while True:
            n = rng.randrange(6)
            yield Pair((f"{n}<", f"{n}>"), ("a", "b") if n % 2 else ("x", "xy"))

    use = Task("few", "…", draw).pairs(50, "train", 0, TOKENIZER).use
    assert use == PairUse("train", 50, 3, indistinct=3)
    assert use_sentence("few", [use]) == "few: 3 pairs used; 3 are told apart by no token (train 3, 50 asked for)"


def test_files_of_which_nothing_is_left(tmp_path: Path) -> None:
    none = task_from_file(write(tmp_path / "none.jsonl", good=0, indistinct=9))
    with pytest.raises(CannotExpress, match=r"\(of 9 pairs of the train split, 9 are told apart by no token\)"):
        none.pairs(8, "train", 0, TOKENIZER, 16)
    long = task_from_file(write(tmp_path / "long.jsonl", good=0, long=9))
    with pytest.raises(UserError, match="takes 23 tokens, more than the context of 16; use a model"):
        long.pairs(8, "train", 0, TOKENIZER, 16)


@pytest.mark.parametrize("n", [0, -1, 10**9, 2**70])
def test_numbers_of_pairs_that_cannot_be(n: int) -> None:
    for ask in (lambda: find_task("var_if").text_pairs(n, "train", 0), lambda: _pairs(n)):
        with pytest.raises(
            UserError, match="is not a valid number of pairs of var_if; give at least one and at most 100"
        ):
            ask()


def _pairs(n: int) -> object:
    return find_task("var_if").pairs(n, "train", 0, TOKENIZER)


def test_ties_are_counted(tmp_path: Path) -> None:
    model = Transformer(SHAPE)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    score = task_from_file(write(tmp_path / "own.jsonl", good=9)).score(model, TOKENIZER, "heldout")
    assert (score.accuracy, score.ties, score.use.used) == (0.0, 18, 9)

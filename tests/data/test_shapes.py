"""Texts of unusual shapes: long unbroken sequences, long lines, many empty files; and sizes that never end."""

import random
import time
from pathlib import Path

import pytest
from cases import case
from pydantic import ValidationError

from thinwire.data import DataConfig, Tokenizer, build
from thinwire.data.split import BLOCK, MAX_UNIT, blocks, splitter, without_long_units

TINY = Tokenizer.train(["def f(x):\n    return [x, x]\n" * 20], 300)
SHAPES = {
    "letters": "ACGT",
    "one letter": "a",
    "letters of two kinds": "aé",
    "symbols": "#",
    "brackets": "([{",
    "spaces": " ",
    "white space": " \t",
    "line ends": "\n",
    "slashes and line ends": "/\n",
    "digits": "0123456789",
    "marks": "\u0301\u0302",
    "Chinese": "字",
}


def test_training_takes_a_time_that_grows_with_the_text_and_learns_no_long_sequence() -> None:
    rng = random.Random(1)
    for name, symbols in SHAPES.items():
        with case(name):
            long = "".join(rng.choice(symbols) for _ in range(200_000 if name == "letters" else 5_000))
            began = time.perf_counter()
            trained = Tokenizer.train([f'SEQ = "x{long}x"\n', "x = 1\n" * 100], 2000)
            assert time.perf_counter() - began < 10, "half a minute where the time grows with the square"
            assert trained.vocab_size < 300 or name == "digits"


def test_units_are_left_out_only_where_they_are_long() -> None:
    for name, symbols in SHAPES.items():
        for length in (MAX_UNIT // 2, 4 * MAX_UNIT):
            with case(name, length):
                text = f"a = b\n{(symbols * length)[:length]}\nc = d\n"
                longest = max(end - begin for _, (begin, end) in splitter().pre_tokenize_str(text))
                parts = list(without_long_units(text))
                assert (parts == [text]) == (longest <= MAX_UNIT)
                assert all(end - begin <= MAX_UNIT for p in parts for _, (begin, end) in splitter().pre_tokenize_str(p))


def test_blocks_encode_as_the_whole_text_does() -> None:
    rng = random.Random(2)
    pieces = [*SHAPES.values(), "x", "é", " y", "\n\n", "  \n", "\r\n", "/", "12", "(x)", "\x1c", "\x85", "²", "'"]
    for size in (1, 2, 7, 50, 400):
        text = "".join(rng.choice(pieces) * rng.randint(1, 6) for _ in range(5000))
        with case(size):
            parts = list(blocks(text, size))
            assert len(parts) > 10
            assert [i for part in parts for i in TINY.encode(part)] == TINY.encode(text)
    long = "x = [1, 2]\n" * (BLOCK // 10)
    assert len(list(blocks(long))) == 2
    assert TINY.encode_batch([long, "x"]) == [TINY.encode("x = [1, 2]\n") * (BLOCK // 10), TINY.encode("x")]


def test_one_line_of_megabytes_and_many_empty_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "line.py").write_text("x = [" + "1234, " * 50_000 + "]")
    (source / "deep.py").write_text("x = " + "[" * 20_000 + "]" * 20_000)
    (source / "word.py").write_text("x = 1\n")
    for i in range(2000):
        (source / f"empty_{i}.py").touch()
    config = DataConfig(idioms=0, stdlib=False, folders=(source,), vocab_size=300, max_file_bytes=3_000_000)
    tokens = build(config, tmp_path / "tokens")
    assert tokens.stats.skipped == {"empty": 2000}
    assert sum(row.documents for row in tokens.stats.parts) == 3
    assert tokens.stats.left_out == "2,000 empty"


def test_sizes_that_never_end_are_refused() -> None:
    for bad in (
        {"idioms": 10**9},
        {"max_file_bytes": 2**63},
        {"tokenizer_bytes": 2**64},
        {"shard_tokens": 2**64},
        {"seed": 2**63},
        {"stdlib_weight": 1e300},
    ):
        with case(bad), pytest.raises(ValidationError, match="less than"):
            DataConfig.model_validate(bad)

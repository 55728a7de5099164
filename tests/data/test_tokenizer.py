import json
import subprocess
import sys
from pathlib import Path

import pytest
from cases import case
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.data import Tokenizer, Tokens
from thinwire.data.tokenizer import BYTES, END_OF_TEXT
from thinwire.errors import UserError

TEXTS = ['print("a")\n', "x = [[1, 2], [3]]\n", "for i in range(10):\n    total += i\n"] * 5
TINY = Tokenizer.train(TEXTS, 300)


def test_answers_of_the_tasks_are_single_tokens(built: Tokens) -> None:
    for text in ['("', "('", "]]\n", "]\n", "],", '")\n', "')\n", " +=", ".add", " in", ":\n", " ="]:
        with case(text):
            token = built.tokenizer.single(text)
            assert token is not None
            assert built.tokenizer.token(token) == text


def test_the_default_corpus_fills_the_vocabulary(built: Tokens) -> None:
    tokenizer = built.tokenizer
    assert tokenizer.vocab_size == 2048
    assert tokenizer.end_of_text == 0
    assert tokenizer.token(0) == END_OF_TEXT


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_decoding_returns_exactly_the_text(text: str) -> None:
    ids = TINY.encode(text)
    assert TINY.decode(ids) == text
    assert TINY.end_of_text not in ids


@given(st.text(alphabet="<|endoftx>\r\n\t '\"[]()é😀", max_size=40))
@settings(max_examples=300, deadline=None)
def test_hostile_alphabets_round_trip(text: str) -> None:
    ids = TINY.encode(text)
    assert TINY.decode(ids) == text
    assert TINY.end_of_text not in ids


def test_the_name_of_the_special_token_is_ordinary_text(built: Tokens) -> None:
    for tokenizer in (TINY, built.tokenizer, Tokenizer.train([END_OF_TEXT] * 100, 300)):
        text = f"a{END_OF_TEXT}b"
        ids = tokenizer.encode(text)
        assert tokenizer.end_of_text not in ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.single(END_OF_TEXT) is None


def test_merges_obey_the_split_pattern(built: Tokens) -> None:
    assert built.tokenizer.encode('print("hi")\n') == [
        i for piece in ["print", '("', "hi", '")\n'] for i in built.tokenizer.encode(piece)
    ]
    digits = [built.tokenizer.token(i) for i in range(1, 2048) if built.tokenizer.token(i).strip("0123456789") == ""]
    assert max(map(len, digits)) <= 3


def test_batches_encode_as_single_texts_do() -> None:
    texts = [*TEXTS, "", "é" * 50, END_OF_TEXT]
    assert TINY.encode_batch(texts) == [TINY.encode(text) for text in texts]


def test_partial_characters_show_as_escapes_and_decode_as_replacements() -> None:
    ids = TINY.encode("é")
    assert [TINY.token(i) for i in ids] == ["\\xc3", "\\xa9"]
    assert TINY.decode(ids[:1]) == "\ufffd"
    assert TINY.decode(ids) == "é"


@given(st.lists(st.integers(0, TINY.vocab_size - 1) | st.sampled_from(TINY.encode("é😀€")), max_size=30))
@settings(max_examples=300, deadline=None)
def test_pieces_are_the_decoded_text_character_by_character(ids: list[int]) -> None:
    pieces = list(TINY.pieces(ids))
    assert "".join(pieces) == TINY.decode(ids)
    assert len(pieces) == len(ids) + 1


def test_pieces_wait_for_whole_characters() -> None:
    ids = TINY.encode("a😀b")
    assert list(TINY.pieces(ids)) == ["a", "", "", "", "😀", "b", ""]
    assert list(TINY.pieces(ids[:3])) == ["a", "", "", "\ufffd"]


def test_the_byte_symbols_are_those_of_the_library() -> None:
    assert len(BYTES) == 256
    assert sorted(BYTES.values()) == list(range(256))
    every_byte = "".join(chr(i) for i in range(0x800))
    assert TINY.decode(TINY.encode(every_byte)) == every_byte


def test_single_is_none_for_several_tokens_and_for_none() -> None:
    assert TINY.single("") is None
    assert TINY.single("Z") == TINY.encode("Z")[0]
    assert TINY.single("ZZ") is None


def test_training_twice_writes_the_same_file(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from thinwire.data import Tokenizer; "
        "texts = [Path(p).read_text(encoding='utf-8') for p in sys.argv[2:]]; "
        "Tokenizer.train(texts, 1000).save(Path(sys.argv[1]))"
    )
    texts = [json.__file__, subprocess.__file__, json.decoder.__file__]
    for name in ("one.json", "two.json"):  # in fresh processes: another hash seed each
        subprocess.run([sys.executable, "-c", script, str(tmp_path / name), *texts], check=True)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_loading_gives_the_same_tokenizer(tmp_path: Path) -> None:
    TINY.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.id == TINY.id
    assert len(loaded.id) == 16
    assert loaded.encode(f"x = 'é {END_OF_TEXT}'\n") == TINY.encode(f"x = 'é {END_OF_TEXT}'\n")
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    assert Tokenizer.train(TEXTS, 270).id != TINY.id


def damage(payload: dict, how: str) -> None:
    vocab, merges = payload["model"]["vocab"], payload["model"]["merges"]
    if how == "another model":
        payload["model"]["type"] = "WordPiece"
    elif how == "another pattern":
        payload["pre_tokenizer"] = {"type": "Whitespace"}
    elif how == "a normalizer":
        payload["normalizer"] = {"type": "Lowercase"}
    elif how == "a gap":
        vocab["Z"] = 100_000
    elif how == "no bytes":
        vocab["\u4e2d"] = vocab.pop("Z")
    elif how == "special elsewhere":
        vocab[END_OF_TEXT], vocab["Z"] = vocab["Z"], vocab[END_OF_TEXT]
    elif how == "a foreign merge":
        merges.append(["Z", "Z"])
    elif how == "a merge that makes the special token":
        merges.append(["<|endoftext|", ">"])
    elif how == "merges of another shape":
        payload["model"]["merges"] = [[1, 2, 3]]
    elif how == "merges of numbers":
        payload["model"]["merges"] = [["a", 1]]
    elif how == "merges of lists":
        payload["model"]["merges"] = [[["a"], ["b"]]]
    elif how == "merges of nothing":
        payload["model"]["merges"] = [[None, None]]
    elif how == "merges that are a number":
        payload["model"]["merges"] = 3
    elif how == "ids that are fractions":
        payload["model"]["vocab"] = {token: float(i) for token, i in vocab.items()}
    elif how == "ids that are truth values":
        vocab.update({token: bool(i) for token, i in vocab.items() if i < 2})
    elif how == "a vocabulary that is a list":
        payload["model"]["vocab"] = list(vocab)
    elif how == "no model":
        del payload["model"]
    else:
        vocab["Z"] = "ninety"


HOWS = ["another model", "another pattern", "a normalizer", "a gap", "no bytes", "special elsewhere", "a foreign merge"]
HOWS += ["merges of numbers", "merges of lists", "merges of nothing", "merges that are a number"]
HOWS += ["ids that are fractions", "ids that are truth values", "a vocabulary that is a list"]
HOWS += ["a merge that makes the special token", "merges of another shape", "no model", "ids that are text"]


def test_foreign_tokenizers_are_refused(tmp_path: Path) -> None:
    for how in HOWS:
        with case(how):
            path = tmp_path / "tokenizer.json"
            TINY.save(path)
            payload = json.loads(path.read_text(encoding="utf-8"))
            damage(payload, how)
            path.write_text(json.dumps(payload), encoding="utf-8")
            with pytest.raises(UserError, match=r"tokenizer\.json.*give a tokenizer\.json that thinwire wrote"):
                Tokenizer.load(path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    for content in [b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b'{"model": 3}', b"[" * 100_000]:
        with case(content):
            path = tmp_path / "tokenizer.json"
            path.write_bytes(content)
            with pytest.raises(UserError, match=r"give a tokenizer\.json"):
                Tokenizer.load(path)


def test_missing_files_truncated_files_and_folders_are_refused(tmp_path: Path) -> None:
    TINY.save(tmp_path / "tokenizer.json")
    whole = (tmp_path / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(whole[: len(whole) // 2])
    for path in (tmp_path / "tokenizer.json", tmp_path / "missing.json", tmp_path):
        with pytest.raises(UserError, match=r"give a tokenizer\.json"):
            Tokenizer.load(path)


def test_vocabularies_that_do_not_fit_are_refused() -> None:
    for size in [0, 256, 65_536]:
        with case(size), pytest.raises(UserError, match="choose 257 to 65535"):
            Tokenizer.train(TEXTS, size)


def test_half_a_surrogate_and_unknown_ids_are_refused() -> None:
    with pytest.raises(UserError, match="Character 1"):
        TINY.encode("a\ud800")
    with pytest.raises(UserError, match="There is no token 300"):
        TINY.decode([1, 300])
    with pytest.raises(UserError, match="There is no token -1"):
        TINY.token(-1)

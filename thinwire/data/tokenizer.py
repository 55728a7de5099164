"""Byte-level BPE with the split pattern of Gao et al. 2025, under which `("` and `]]\\n` can be single tokens.

A saved tokenizer is data only (vocabulary and merges): `load` builds the same pipeline around it that `train` used.
Text is untrusted: an `<|endoftext|>` inside a document is encoded as ordinary bytes, never as the special token.
"""

import hashlib
import json
from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Pipeline

from thinwire import shipped
from thinwire.artifact import write_text
from thinwire.data.config import MAX_VOCAB, MIN_VOCAB
from thinwire.data.split import BLOCK, PATTERN, blocks, splitter, without_long_units
from thinwire.errors import UserError
from thinwire.files import read_text

MAX_BYTES = 2**26
"""Largest `tokenizer.json` that is read; the largest vocabularies take a few megabytes."""
END_OF_TEXT = "<|endoftext|>"
"""Name of the special token, id 0, that stands before every document."""


def _byte_symbols() -> dict[str, int]:
    """The printable character that byte-level BPE writes for each byte: itself where printable, 256 + n elsewhere."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in sorted(printable)} | {chr(256 + i): byte for i, byte in enumerate(rest)}


BYTES = _byte_symbols()


class Tokenizer:
    """Text to token ids and back. Encoding then decoding returns exactly the same text."""

    def __init__(self, tokens: Sequence[str], merges: Sequence[tuple[str, str]]) -> None:
        """From the token strings in id order (bytes as printable symbols, the end of text first) and the merges.

        Raises UserError when they do not make a byte-level BPE.
        """
        if problem := _problem(tokens, merges):
            raise UserError(f"This is not a byte-level BPE vocabulary with {END_OF_TEXT} as token 0: {problem}.")
        self._tokens = tuple(tokens)
        self._merges = tuple(merges)
        self._bytes = (END_OF_TEXT.encode(), *(bytes(BYTES[symbol] for symbol in token) for token in tokens[1:]))
        self._pipeline = _pipeline(
            models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=list(merges), ignore_merges=False)
        )
        self._pipeline.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
        self._pipeline.encode_special_tokens = True  # so the text `<|endoftext|>` is encoded as ordinary text

    def __repr__(self) -> str:
        return f"Tokenizer({len(self._tokens)} tokens, id {self.id})"

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 2048) -> "Tokenizer":
        """Learn a vocabulary; the same texts give the same one. Fewer tokens result when the texts yield no more.

        Unbroken sequences that are longer than any word, as of encoded data, are left out.
        Raises UserError for a size that bytes or uint16 shards cannot hold.
        """
        if not MIN_VOCAB <= vocab_size <= MAX_VOCAB:
            raise UserError(f"A vocabulary of {vocab_size} tokens is not possible; choose {MIN_VOCAB} to {MAX_VOCAB}.")
        pipeline = _pipeline(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[AddedToken(END_OF_TEXT, special=True, normalized=False)],
            initial_alphabet=sorted(BYTES),
            show_progress=False,
        )
        pipeline.train_from_iterator((part for text in texts for part in without_long_units(_utf8(text))), trainer)
        return cls(*_vocabulary(json.loads(pipeline.to_str())))

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Read a `tokenizer.json`, or that of a tokens folder, a model folder or a shipped model.

        Raises UserError when it is missing, damaged or of another kind.
        """
        remedy = "give a tokenizer.json that thinwire wrote"
        path = shipped.find(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        try:
            payload = json.loads(read_text(path, MAX_BYTES))
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}.") from None
        except UserError:
            raise
        except (ValueError, RecursionError):
            raise UserError(f"{path} is damaged (it is not JSON); {remedy}.") from None
        try:
            tokens, merges = _vocabulary(payload)
            own = json.loads(_pipeline(models.BPE()).to_str())
            foreign = [key for key in ("normalizer", "pre_tokenizer", "decoder") if payload[key] != own[key]]
        except (KeyError, TypeError, AttributeError, ValueError):
            raise UserError(f"{path} is not a byte-level BPE tokenizer; {remedy}.") from None
        if foreign:
            raise UserError(f"{path} is a tokenizer of another kind (its {foreign[0]} differs); {remedy}.")
        if problem := _problem(tokens, merges):
            raise UserError(f"{path} is damaged or of another kind ({problem}); {remedy}.")
        return cls(tokens, merges)

    def save(self, path: Path) -> None:
        """Write `tokenizer.json`, in the format of the tokenizers library."""
        write_text(Path(path), self._pipeline.to_str(pretty=True))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; never contains the end of text. Raises UserError for text that is not Unicode."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, on all cores."""
        if max(map(len, texts), default=0) <= BLOCK:
            return [encoding.ids for encoding in self._pipeline.encode_batch_fast([_utf8(text) for text in texts])]
        # the library keeps the strings of all tokens of a text, a hundred bytes each
        return [[i for block in blocks(_utf8(text)) for i in self._pipeline.encode(block).ids] for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; bytes that are not UTF-8 become replacement characters. Raises UserError for other ids."""
        return b"".join(self._token_bytes(i) for i in ids).decode("utf-8", errors="replace")

    def pieces(self, ids: Iterable[int]) -> Iterator[str]:
        """Text of a stream of token ids, one string per token and one at the end; joined they are that of `decode`.

        Each string has complete characters only: the bytes of an incomplete one are kept for the next string.
        """
        decoder = getincrementaldecoder("utf-8")("replace")
        for token_id in ids:
            yield decoder.decode(self._token_bytes(token_id))
        yield decoder.decode(b"", final=True)

    def token(self, token_id: int) -> str:
        """Display text of one token; bytes of a character that the token holds only in part are written `\\xe2`."""
        return self._token_bytes(token_id).decode("utf-8", errors="backslashreplace")

    def single(self, text: str) -> int | None:
        """The id of the one token a text encodes to, or None when it takes several (or none)."""
        ids = self.encode(text)
        return ids[0] if len(ids) == 1 else None

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the end of text included."""
        return len(self._tokens)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens in id order as `tokenizer.json` writes them, bytes as printable symbols."""
        return self._tokens

    @property
    def end_of_text(self) -> int:
        """Id of the token before every document."""
        return 0

    @cached_property
    def id(self) -> str:
        """Content hash: 16 hex digits over the split pattern, the tokens in id order and the merges."""
        return hashlib.sha256(json.dumps([PATTERN, self._tokens, self._merges]).encode()).hexdigest()[:16]

    def _token_bytes(self, token_id: int) -> bytes:
        if not 0 <= token_id < len(self._bytes):
            raise UserError(f"There is no token {token_id}; ids run from 0 to {len(self._bytes) - 1}.")
        return self._bytes[token_id]


def _pipeline(model: models.BPE) -> Pipeline:
    """The library's tokenizer around a BPE model: the split pattern, then bytes."""
    pipeline = Pipeline(model)
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(
        [
            splitter(),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pipeline.decoder = decoders.ByteLevel()
    return pipeline


def _vocabulary(payload: Any) -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens in id order and merges of a parsed `tokenizer.json`; a KeyError, TypeError or ValueError without."""
    model = payload["model"]
    if model["type"] != "BPE":
        raise ValueError(model["type"])
    vocab = model["vocab"]
    tokens = sorted(vocab, key=vocab.__getitem__)
    ids = [vocab[token] for token in tokens]
    if ids != list(range(len(tokens))) or any(type(i) is not int for i in ids):
        raise ValueError("ids with gaps, or that are not whole numbers")
    # older releases of the library write a merge as one string, newer ones as a pair
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    merges = [(left, right) for left, right in pairs]
    if not all(isinstance(side, str) for merge in merges for side in merge):
        raise ValueError("merges that are not text")
    return tokens, merges


def _problem(tokens: Sequence[str], merges: Sequence[tuple[str, str]]) -> str | None:
    """Why these are not a byte-level BPE, in a phrase; None if they are."""
    known = set(tokens)
    if not MIN_VOCAB <= len(tokens) <= MAX_VOCAB or len(known) != len(tokens):
        return f"it has {len(tokens)} tokens where {MIN_VOCAB} to {MAX_VOCAB} different ones are needed"
    if tokens[0] != END_OF_TEXT:
        return f"token 0 is {tokens[0][:40]!r}"
    if not BYTES.keys() <= known:
        return "it lacks tokens for some bytes"
    if any(not token or not BYTES.keys() >= set(token) for token in tokens[1:]):
        return "a token is not made of bytes"
    made = {left + right for left, right in merges}
    if END_OF_TEXT in made or any(not {left, right, left + right} <= known for left, right in merges):
        return "a merge does not fit the tokens"
    return None


def _utf8(text: str) -> str:
    """The text, unchanged. Raises UserError when it holds lone surrogates, which no encoding can write."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"Character {error.start} of the text is half a surrogate pair; give valid Unicode.") from None
    return text

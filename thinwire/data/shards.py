"""Token files of one part and split: little-endian uint16 shards and the offset of every document.

`NAME.00000.bin`, `NAME.00001.bin`, … hold whole documents, each preceded by the end of text; `NAME.offsets.npy` (int64,
documents + 1) holds where each begins in the concatenation of the shards, and where the last one ends.
"""

import tokenize
from collections.abc import Collection
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from thinwire.data.config import MAX_VOCAB
from thinwire.errors import UserError
from thinwire.interrupt import held

TOKEN = np.dtype("<u2")
"""How tokens are stored: two bytes, little-endian, on every machine."""
OFFSET = np.dtype("<i8")
"""How offsets are stored."""
UNREADABLE = (OSError, ValueError, EOFError, TypeError, OverflowError, MemoryError, tokenize.TokenError)
"""What reading a damaged .npy file may raise."""


@dataclass
class ShardWriter:
    """Appends documents to the shards of one part and split; a context manager that closes its files."""

    folder: Path
    name: str
    shard_tokens: int
    files: list[str] = field(default_factory=list)
    """Names of the files written so far, relative to the folder."""
    offsets: list[int] = field(default_factory=lambda: [0])
    _open: BinaryIO | None = None
    _in_shard: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
        if kind is None:
            np.save(self.folder / f"{self.name}.offsets.npy", np.asarray(self.offsets, dtype=OFFSET))
            self.files.append(f"{self.name}.offsets.npy")

    def add(self, ids: list[int], end_of_text: int) -> None:
        """Append one document behind an end of text. Raises UserError for ids that two bytes cannot hold."""
        if ids and max(ids) > MAX_VOCAB:
            raise UserError(f"Token {max(ids)} does not fit a uint16 shard; use a vocabulary of at most {MAX_VOCAB}.")
        n_tokens = len(ids) + 1
        if self._open is None or self._in_shard + n_tokens > self.shard_tokens:
            self._next_shard()
        assert self._open is not None
        self._open.write(np.array([end_of_text, *ids], dtype=TOKEN).tobytes())
        self._in_shard += n_tokens
        self.offsets.append(self.offsets[-1] + n_tokens)

    def _next_shard(self) -> None:
        if self._open is not None:
            self._open.close()
        name = f"{self.name}.{len(self.files):05d}.bin"
        self._open = open(self.folder / name, "wb")  # noqa: SIM115 (closed by __exit__ or by the next shard)
        self._in_shard = 0
        self.files.append(name)


@dataclass(frozen=True)
class Stream:
    """The tokens of one part and split as one sequence, memory-mapped."""

    offsets: np.ndarray
    """Where each document begins, and where the last one ends. int64 [documents + 1]"""
    shards: tuple[np.ndarray, ...]
    starts: np.ndarray
    """Where each shard begins, and where the last one ends. int64 [shards + 1]"""

    @classmethod
    def open(cls, folder: Path, name: str, listed: Collection[str] | None = None) -> "Stream":
        """Map the files that a ShardWriter wrote; where `listed` names files, no others.

        Raises UserError when they do not fit together.
        """
        offsets_path = folder / f"{name}.offsets.npy"
        files = [path.name for path in folder.iterdir()] if listed is None else listed
        if offsets_path.name not in files:
            raise UserError(f"{offsets_path} is missing or not listed; build the tokens again.")
        try:
            # mapped first: a header may state any size, and more than the file has is refused before it takes memory
            with held():
                offsets = np.array(np.lib.format.open_memmap(offsets_path, mode="r"))
            # an empty file cannot be mapped; a part with no document in a split has no shard at all
            names = sorted(file for file in files if fnmatchcase(file, f"{name}.[0-9]*.bin"))
            shards = tuple(np.memmap(folder / file, dtype=TOKEN, mode="r") for file in names)
        except UNREADABLE:
            raise UserError(f"{offsets_path} or its shards cannot be read; build the tokens again.") from None
        starts = np.cumsum([0, *(len(shard) for shard in shards)], dtype=np.int64)
        whole = offsets.dtype == OFFSET and offsets.ndim == 1 and len(offsets) > 0
        if not whole or offsets[0] != 0 or offsets[-1] != starts[-1] or np.any(offsets[1:] <= offsets[:-1]):
            raise UserError(f"{offsets_path} does not fit its shards; build the tokens again.")
        return cls(offsets, shards, starts)

    @property
    def n_tokens(self) -> int:
        """Tokens in all documents, the ends of text included."""
        return int(self.offsets[-1])

    @property
    def n_documents(self) -> int:
        return len(self.offsets) - 1

    def read(self, start: int, length: int) -> np.ndarray:
        """Tokens `start` … `start + length`, across documents and shards. int64 [length]"""
        assert start >= 0
        assert length >= 0
        assert start + length <= self.n_tokens, "reading past the end of a stream"
        out = np.empty(length, dtype=np.int64)
        done = 0
        shard = int(np.searchsorted(self.starts, start, side="right")) - 1
        while done < length:
            inside = start + done - int(self.starts[shard])
            piece = self.shards[shard][inside : inside + length - done]
            out[done : done + len(piece)] = piece
            done += len(piece)
            shard += 1
        return out

    def document(self, index: int) -> np.ndarray:
        """One document, its end of text first. int64 [tokens]"""
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        return self.read(start, stop - start)

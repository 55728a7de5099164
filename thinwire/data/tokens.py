"""The tokens artefact as training and the viewer read it: batches by (seed, step), held-out windows, documents."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from thinwire.artifact import Artifact, open_artifact
from thinwire.config import read_record
from thinwire.data.config import DataConfig, Part, Split
from thinwire.data.corpus import counted
from thinwire.data.shards import Stream
from thinwire.data.tokenizer import Tokenizer
from thinwire.display import line, one_line
from thinwire.errors import UserError

SPLITS: tuple[Split, ...] = get_args(Split)


class PartStats(BaseModel):
    """Size of one part and split."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    part: Part
    split: Split
    documents: int
    tokens: int
    """Tokens of the documents, one end of text for each included."""
    bytes: int
    """Bytes of the documents' text in UTF-8."""


class Stats(BaseModel):
    """Contents of `stats.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    vocab_size: int
    tokenizer: str
    """Content hash of the tokenizer."""
    parts: tuple[PartStats, ...] = Field(min_length=1)
    skipped: dict[str, int]
    """What was left out, by reason: documents, and folders that were not entered."""

    @property
    def left_out(self) -> str:
        """The same in a phrase, such as `2 empty, 1 undecodable`."""
        return counted(self.skipped)

    def __repr__(self) -> str:
        return line(type(self).__name__, self)


@one_line
@dataclass(frozen=True)
class Tokens:
    """A finished tokens artefact, memory-mapped."""

    artifact: Artifact
    config: DataConfig
    tokenizer: Tokenizer
    stats: Stats
    streams: Mapping[tuple[Part, Split], Stream]

    @classmethod
    def open(cls, folder: Path) -> "Tokens":
        """Open and check the artefact in `folder`. Raises UserError for anything else than finished tokens."""
        artifact = open_artifact(Path(folder), "tokens")
        path = artifact.file("stats.json")
        stats = read_record(Stats, path, f"{path} is damaged; build the tokens again.")
        streams: dict[tuple[Part, Split], Stream] = {
            (row.part, row.split): Stream.open(artifact.path, f"{row.part}.{row.split}", artifact.meta.files)
            for row in stats.parts
        }
        tokenizer = Tokenizer.load(artifact.file("tokenizer.json"))
        if unfit := _mismatch(stats, streams, tokenizer):
            raise UserError(f"The {unfit} of {artifact.path} do not fit together; build the tokens again.")
        return cls(artifact, artifact.config(DataConfig), tokenizer, stats, streams)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts the corpus has, in order."""
        return tuple(dict.fromkeys(part for part, _ in self.streams))

    def n_tokens(self, part: str, split: str) -> int:
        """Number of tokens of a part and split, the ends of text included."""
        return self._stream(part, split).n_tokens

    def batch(
        self, step: int, seed: int, batch_size: int, context: int, weights: Mapping[str, float] | None = None
    ) -> np.ndarray:
        """Training windows: a pure function of (seed, step), so any step can be repeated. int64 [batch, context + 1]

        Each row draws a part by weight (the config's, unless `weights` names parts and weights), then starts at the
        start of a random document with probability `document_start`, else at a uniform offset, and continues across
        documents. Raises UserError for unknown parts, weights without a positive one, and parts shorter than a window.
        """
        parts, cumulative = self._mixture(weights)
        streams = [self._stream(part, "train") for part in parts]
        for part, stream in zip(parts, streams, strict=True):
            _require_length(part, "train", stream, context + 1)
        rows = np.empty((batch_size, context + 1), dtype=np.int64)
        for row, (u_part, u_start, u_place) in zip(rows, _uniform(seed, step, (batch_size, 3)), strict=True):
            stream = streams[int(np.searchsorted(cumulative, u_part, side="right"))]
            row[:] = stream.read(self._window_start(stream, context + 1, u_start, u_place), context + 1)
        return rows

    def validation(self, part: str, n_tokens: int, context: int) -> np.ndarray:
        """Held-out windows spread evenly over a part, always the same. int64 [n_tokens // context, context + 1]

        Each window predicts `context` tokens and no token is predicted twice: the last token of a window may be the
        first of the next. Raises UserError when the part holds too few.
        """
        stream = self._stream(part, "validation")
        rows = max(1, n_tokens // context)
        _require_length(part, "validation", stream, rows * context + 1)
        available = (stream.n_tokens - 1) // context
        starts = (np.arange(rows) * available // rows) * context
        return np.stack([stream.read(int(start), context + 1) for start in starts])

    def documents(self, part: str, split: str, n: int, seed: int) -> list[np.ndarray]:
        """A random sample of different documents, each with its end of text first; all of them when there are fewer.

        int64 [tokens] each; a pure function of the seed.
        """
        stream = self._stream(part, split)
        order = np.argsort(_uniform(seed, 0, (stream.n_documents,)), kind="stable")
        return [stream.document(int(index)) for index in order[:n]]

    def _stream(self, part: str, split: str) -> Stream:
        if part not in self.parts:
            raise UserError(f"{self.artifact.path} has no part '{part}'; its parts are {', '.join(self.parts)}.")
        if split not in SPLITS:
            raise UserError(f"There is no split '{split}'; use one of {', '.join(SPLITS)}.")
        return self.streams[cast(Part, part), cast(Split, split)]

    def _mixture(self, weights: Mapping[str, float] | None) -> tuple[list[str], np.ndarray]:
        """Parts with a positive weight and where each ends on the unit interval."""
        given: Mapping[str, float] = weights if weights is not None else self._own_weights()
        for part, weight in given.items():
            self._stream(part, "train")
            if not (np.isfinite(weight) and weight >= 0):
                raise UserError(f"The weight of {part} is {weight}; give a number from 0 up.")
        parts: list[str] = [part for part in self.parts if given.get(part, 0) > 0]
        if not parts:
            raise UserError(f"No part has a positive weight; give one to any of {', '.join(self.parts)}.")
        cumulative = np.cumsum([float(given[part]) for part in parts])
        return parts, cumulative / cumulative[-1]

    def _own_weights(self) -> dict[str, float]:
        return {part: self.config.weight(part) for part in self.parts}

    def _window_start(self, stream: Stream, length: int, u_start: float, u_place: float) -> int:
        """Where a window begins, from two uniform numbers."""
        last = stream.n_tokens - length
        if u_start >= self.config.document_start:
            return int(u_place * (last + 1))
        eligible = int(np.searchsorted(stream.offsets[:-1], last, side="right"))
        return int(stream.offsets[int(u_place * eligible)])


def _mismatch(stats: Stats, streams: Mapping[tuple[Part, Split], Stream], tokenizer: Tokenizer) -> str | None:
    """What of an artefact contradicts itself, in a phrase; None where nothing does."""
    if len(streams) != len(stats.parts) or {(part, split) for part, _ in streams for split in SPLITS} != set(streams):
        return "parts and splits"
    found = [streams[row.part, row.split] for row in stats.parts]
    if [(row.documents, row.tokens) for row in stats.parts] != [(one.n_documents, one.n_tokens) for one in found]:
        return "statistics and shards"
    largest = max((int(shard.max()) for stream in streams.values() for shard in stream.shards), default=0)
    if (stats.tokenizer, stats.vocab_size) != (tokenizer.id, tokenizer.vocab_size) or largest >= stats.vocab_size:
        return "tokenizer and shards"
    return None


def _uniform(seed: int, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform numbers in [0, 1), a pure function of (seed, step). float64 [*shape]

    Counter-based and computed from raw bits, so that they do not depend on how a release of NumPy draws distributions.
    """
    if not (0 <= seed < 2**64 and 0 <= step < 2**64):
        raise UserError(f"Seed {seed} at step {step} cannot be drawn; both must be from 0 to 2^64 - 1.")
    philox = np.random.Philox(key=np.array([seed, step], dtype=np.uint64))
    raw = philox.random_raw(int(np.prod(shape)))
    return ((np.asarray(raw, dtype=np.uint64) >> np.uint64(11)) * 2.0**-53).reshape(shape)


def _require_length(part: str, split: str, stream: Stream, needed: int) -> None:
    if stream.n_tokens < needed:
        raise UserError(
            f"The {split} split of {part} has {stream.n_tokens} tokens where {needed} are needed; "
            "use a shorter context, fewer tokens, or a larger corpus."
        )

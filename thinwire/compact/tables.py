"""What a compact circuit looks up by token: constants of the stream and of the logits, computed when first needed."""

from dataclasses import dataclass
from threading import RLock
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from thinwire.compact.kernel import Tables
from thinwire.compact.parts import Compiler, Read, bars_of, plain
from thinwire.compiled.edit import bias_of, nonzeros

CHUNK = 256
"""Slots whose stream is in memory at a time."""
_growing = RLock()
"""Held while tables grow or are read, since several threads may ask one circuit. One for all circuits: locks cannot be
copied or pickled."""


@dataclass(frozen=True)
class Ends:
    """The result of a circuit at the last position of n prompts."""

    written: np.ndarray
    """Its sum in each channel of the stream that it writes: float32 [n, channel]."""
    scale: np.ndarray
    """The factor of the last norm: float32 [n]."""


class Embedded(NamedTuple):
    """The first residual point of n slots."""

    stream: Tensor
    """float32 [n, d_model]"""
    positions: Tensor
    """int64 [n]"""


class Numbering:
    """Keys below a size, numbered in the order in which they first occur."""

    def __init__(self, size: int) -> None:
        self._next = np.zeros(size, np.int32)  # memory is taken only where it is touched
        self.keys = np.zeros(0, np.int64)

    def unknown(self, keys: np.ndarray) -> np.ndarray:
        """The keys without a number, sorted: int64 [m] of keys [any shape]."""
        new = keys[self._next[keys] == 0]
        return np.unique(new) if len(new) else new

    def add(self, new: np.ndarray) -> None:
        """Number keys [n] that have none and are all different."""
        self._next[new] = len(self.keys) + 1 + np.arange(len(new))
        self.keys = np.concatenate([self.keys, new])

    def __call__(self, keys: np.ndarray) -> np.ndarray:
        """Numbers of keys, int32 of the same shape; -1 for unknown ones."""
        return self._next[keys] - 1


class Streams:
    """The residual stream where the circuit has written nothing, by slot: a token, or a token at a position.

    Positions matter only to models that have any. Slot p · vocab + t is token t at position p.
    """

    def __init__(self, compiler: Compiler, reads: list[Read]) -> None:
        self._compiler, self._reads, self._config = compiler, reads, compiler.config
        self._end = 2 * compiler.config.n_layers
        self.positioned = compiler.config.positions != "none"
        self._numbers = Numbering(compiler.config.vocab_size * (compiler.config.context if self.positioned else 1))
        n_rows = sum(len(read.channels) for read in reads)
        self.tables = Tables(
            np.zeros((0, n_rows), np.float32),
            np.zeros((0, n_rows), np.float32),
            np.zeros((0, n_rows), np.int32),
            np.zeros((0, len(reads)), np.float32),
        )

    def rows(self, tokens: np.ndarray) -> np.ndarray:
        """Rows of `tables` for tokens [prompt, pos], int32 [prompt, pos]; new ones are computed."""
        slots = self.slots(tokens)
        with _growing:
            new = self._numbers.unknown(slots)
            for start in range(0, len(new), CHUNK):
                part = new[start : start + CHUNK]
                added = self._computed(part)
                self.tables = Tables(*(np.concatenate(both) for both in zip(self.tables, added, strict=True)))
                self._numbers.add(part)
            return self._numbers(slots)

    def slots(self, tokens: np.ndarray) -> np.ndarray:
        """Slots of tokens, int64 [prompt, pos] both."""
        return tokens + self._config.vocab_size * np.arange(tokens.shape[1]) if self.positioned else tokens

    def last(self, slots: np.ndarray) -> Tensor:
        """The input of the last norm for slots [n] where the circuit has written nothing: float32 [n, d_model]."""
        stream = self._embedded(slots).stream
        for point in range(self._end):
            stream = stream + self._compiler.constant_delta(point)
        return stream

    def _embedded(self, slots: np.ndarray) -> Embedded:
        """The first residual point of slots [n]."""
        positions, tokens = (torch.from_numpy(x) for x in divmod(slots, self._config.vocab_size))
        stream = plain(self._compiler.cut.embedding(tokens[None])[0])
        if self._config.positions == "added":
            assert self._compiler.cut.positions is not None
            stream = stream + plain(self._compiler.cut.positions[positions])
        return Embedded(stream, positions)

    def _computed(self, slots: np.ndarray) -> Tables:
        """Rows of the tables for slots [n]."""
        stream, positions = self._embedded(slots)
        reads = {read.point: read for read in self._reads}
        parts = []
        for point in range(self._end + 1):
            if point in reads:
                parts.append(self._read(reads[point], stream, positions))
            if point < self._end:
                stream = stream + self._compiler.constant_delta(point)
        return Tables(*(torch.cat(each, 1).numpy() for each in zip(*parts, strict=True)))

    def _read(self, read: Read, stream: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        """The fields of `Tables` for one norm, of the stream [n, d_model] at positions [n]."""
        written = self._compiler.written if read.channels else []
        normed, unwritten = stream * read.gain, stream.clone()
        unwritten[:, written] = 0
        position_channels = read.positions[positions] if read.positions.shape[1] else stream[:, :0]
        base = torch.cat([stream[:, written], normed[:, read.others], position_channels], 1)
        bar, channel = torch.zeros_like(base), torch.zeros(base.shape, dtype=torch.int64, device="cpu")
        if read.k is not None and read.channels:
            rest = torch.ones(stream.shape[1], dtype=torch.bool, device="cpu")
            rest[[*written, *read.others]] = False
            bar, channel = bars_of(normed[:, rest], rest.nonzero()[:, 0], read.k, base.shape[1])
        return base, bar, channel.to(torch.int32), unwritten.double().square().sum(1, keepdim=True).float()


class Logits:
    """Logits of answers from the input of the last norm; tables grow with new last tokens and answers."""

    def __init__(self, compiler: Compiler, streams: Streams) -> None:
        self._compiler, self._streams, self._vocab = compiler, streams, compiler.config.vocab_size
        self._endings = Numbering(self._vocab * (compiler.config.context if streams.positioned else 1))
        self._answers = Numbering(self._vocab)
        self._rows = np.zeros((0, len(compiler.written)), np.float32)  # [answer, written channel]
        self._scaled = self._fixed = np.zeros((0, 0), np.float32)  # [ending, answer], with the norm's scale and without

    def margins(self, slots: np.ndarray, target: np.ndarray, foil: np.ndarray, ends: Ends) -> np.ndarray:
        """Logits of the targets minus those of the foils, float32 [n]; slots, target and foil are int64 [n]."""
        with _growing:
            self._add(slots, np.concatenate([target, foil]))
            ending, right, wrong = self._endings(slots), self._answers(target), self._answers(foil)
            written = np.einsum("nc,nc->n", ends.written, self._rows[right] - self._rows[wrong])
            scaled = self._scaled[ending, right] - self._scaled[ending, wrong] + written
            return scaled * ends.scale + self._fixed[ending, right] - self._fixed[ending, wrong]

    def whole(self, slots: np.ndarray, ends: Ends) -> np.ndarray:
        """Logits of all tokens, float32 [n, vocab], at slots [n]."""
        every = np.arange(self._vocab)
        with _growing:
            self._add(slots, every)
            ending = self._endings(slots)
            logits = (self._scaled[ending] + ends.written @ self._rows.T) * ends.scale[:, None] + self._fixed[ending]
            return logits[:, self._answers(every)]

    def _add(self, slots: np.ndarray, answers: np.ndarray) -> None:
        new = self._endings.unknown(slots), self._answers.unknown(answers)
        if not any(map(len, new)):
            return
        self._endings.add(new[0])
        self._answers.add(new[1])
        compiler, cut, endings, answers = self._compiler, self._compiler.cut, self._endings.keys, self._answers.keys
        wanted = torch.zeros(self._vocab, dtype=torch.bool, device="cpu")
        wanted[answers] = True
        found = nonzeros(cut, "unembedding", wanted)
        rows = torch.zeros(len(answers), compiler.config.d_model, dtype=torch.float32, device="cpu")
        rows[self._answers(found.rows.numpy()), found.columns] = plain(found.values)
        rows *= plain(cut.norm.weight)
        fixed = plain(bias_of(cut, "unembedding"))[answers].repeat(len(endings), 1)
        if cut.bigram is not None:
            fixed += plain(cut.bigram(torch.from_numpy(endings % self._vocab)))[:, answers]
        self._rows, self._fixed = rows[:, compiler.written].numpy(), fixed.numpy()
        self._scaled = (self._streams.last(endings) @ rows.T).numpy()

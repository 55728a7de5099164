"""How far both models of a bridge, and its crossings, agree token by token (Gao et al. 2025, Fig. 33).

The correlation is Pearson's, of losses of single held-out tokens with those of the dense model. Its interval resamples
whole sequences, since tokens of one sequence are not independent. Corpus parts are weighted as in training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import with_config
from torch import Tensor

from thinwire.bridge.crossings import OwnPass
from thinwire.bridge.maps import Bridge
from thinwire.config import STRICT
from thinwire.display import one_line
from thinwire.prune.bootstrap import TAIL

RESAMPLES = 1000


@one_line
@with_config(STRICT)
@dataclass(frozen=True)
class Correlation:
    """Pearson correlation of per-token losses with those of the dense model."""

    r: float
    low: float
    """Ends of the 95 % interval."""
    high: float


@one_line
@with_config(STRICT)
@dataclass(frozen=True)
class Agreement:
    """Per-token agreement on held-out tokens. Lists are by junction."""

    tokens: int
    sequences: int
    sparse: Correlation
    """Of the sparse model by itself."""
    to_sparse: list[Correlation]
    """Of the crossings from the dense into the sparse model."""
    to_dense: list[Correlation]
    """Of the crossings from the sparse into the dense model."""
    explained_encode: list[float]
    """Share of the variance of the sparse stream that the encoder's output explains: 1 is all, 0 that of the mean."""
    explained_decode: list[float]
    """The same of the dense stream and the decoder."""


class Crossed(NamedTuple):
    """Both models and every crossing on a batch of tokens [batch, pos + 1]."""

    tokens: Tensor
    dense: OwnPass
    sparse: OwnPass
    to_sparse: Sequence[Tensor]
    """Logits [batch, pos, vocab] by junction."""
    to_dense: Sequence[Tensor]


class Tally:
    """Sums over batches from which an agreement follows."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge
        n = len(bridge.junctions)
        self.rows: list[Tensor] = []
        """Of each batch, [runs, batch, 6]: weighted sums over the tokens of a sequence."""
        widths = {"encode": bridge.d_sparse, "decode": bridge.d_dense}
        self.errors = {way: torch.zeros(n, dtype=torch.float64, device="cpu") for way in widths}
        self.sums = {way: torch.zeros(n, width, dtype=torch.float64, device="cpu") for way, width in widths.items()}
        self.squares = {way: torch.zeros(n, dtype=torch.float64, device="cpu") for way in widths}
        self.weight, self.tokens = 0.0, 0

    def add(self, weight: float, found: Crossed) -> None:
        """Add a batch with its weight in all."""
        targets = found.tokens[:, 1:]
        dense = token_losses(found.dense.logits, targets)
        runs = [found.sparse.logits, *found.to_sparse, *found.to_dense]
        each = weight / targets.numel()
        self.rows.append(torch.stack([_sums(dense, token_losses(logits, targets), each) for logits in runs]))
        for i, (h_dense, h_sparse) in enumerate(zip(found.dense.streams, found.sparse.streams, strict=True)):
            self._explained("encode", i, self.bridge.encode(i, h_dense), h_sparse, each)
            self._explained("decode", i, self.bridge.decode(i, h_sparse), h_dense, each)
        self.weight += weight
        self.tokens += targets.numel()

    def _explained(self, way: str, i: int, mapped: Tensor, stream: Tensor, each: float) -> None:
        stream = stream.double()
        self.errors[way][i] += each * float((mapped.double() - stream).square().sum())
        self.sums[way][i] += each * stream.sum((0, 1)).cpu()
        self.squares[way][i] += each * float(stream.square().sum())

    def agreement(self, seed: int = 0) -> Agreement:
        """The agreement on all batches; the seed is that of the intervals."""
        rows = torch.cat(self.rows, 1)  # [runs, sequences, 6]
        n = rows.shape[1]
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(n, (RESAMPLES, n), generator=generator, dtype=torch.int64, device="cpu")
        copies = torch.zeros(RESAMPLES, n, dtype=torch.float64, device="cpu")
        copies.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        whole, resampled = pearson(rows.sum(1)), pearson(copies @ rows)  # [runs] and [runs, RESAMPLES]
        ends = resampled.quantile(torch.tensor([TAIL, 1 - TAIL], dtype=torch.float64, device="cpu"), dim=1)
        found = [Correlation(*values) for values in torch.cat([whole[None], ends]).T.tolist()]
        junctions = len(self.bridge.junctions)
        return Agreement(
            tokens=self.tokens,
            sequences=n,
            sparse=found[0],
            to_sparse=found[1 : 1 + junctions],
            to_dense=found[1 + junctions :],
            explained_encode=self._shares("encode"),
            explained_decode=self._shares("decode"),
        )

    def _shares(self, way: str) -> list[float]:
        variance = self.squares[way] - self.sums[way].square().sum(-1) / self.weight
        return (1 - self.errors[way] / variance.clamp_min(torch.finfo(torch.float64).tiny)).tolist()


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every token in nats, float64 [batch, pos], from logits [batch, pos, vocab]."""
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view_as(targets).double()


def _sums(x: Tensor, y: Tensor, weight: float) -> Tensor:
    """Sums over tokens of x and y [batch, pos], weighted: of 1, x, y, x², y² and xy, [batch, 6]."""
    parts = torch.stack([torch.ones_like(x), x, y, x.square(), y.square(), x * y], -1)
    return (weight * parts.sum(1)).cpu()


def pearson(sums: Tensor) -> Tensor:
    """Pearson correlations [...] from the sums of `_sums`, [..., 6]; 0 where one of both does not vary."""
    n, x, y, xx, yy, xy = sums.unbind(-1)
    spread = ((xx - x * x / n) * (yy - y * y / n)).clamp_min(0).sqrt()
    return torch.where(spread > 0, (xy - x * y / n) / spread, 0.0).clamp(-1, 1)

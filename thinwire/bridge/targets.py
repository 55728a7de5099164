"""The dense model of a bridge, as three functions: embed, run a range of segments, unembed."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from thinwire.model.norms import ReadRecorder, moved_by
from thinwire.model.transformer import Transformer
from thinwire.tasks import PairBatch, last_logits


class Target(nn.Module, ABC):
    """Base of the adapters of dense models. A *point* is a place in the residual stream where a map may attach.

    Points are numbered from 0, before the first segment, to `n_points - 1`, before the unembedding.
    """

    n_points: int
    d_model: int
    vocab_size: int
    context: int
    """Tokens of the longest prompt."""
    per_layer: int = 2
    """Points per layer: 2, or 1 where attention and MLP read the same one."""
    centred: bool = False
    """Whether the norms subtract the mean over channels, as a LayerNorm does."""

    @abstractmethod
    def embed(self, tokens: Tensor) -> Tensor:
        """The residual stream at point 0 [batch, pos, d_model] of tokens [batch, pos]."""

    @abstractmethod
    def run(self, resid: Tensor, start: int, stop: int) -> Tensor:
        """Take the residual stream [batch, pos, d_model] from point `start` to point `stop`; same shape."""

    @abstractmethod
    def unembed(self, resid: Tensor, tokens: Tensor) -> Tensor:
        """Logits [batch, pos, vocab] of the residual stream [batch, pos, d_model] at the last point.

        Some models also read the tokens [batch, pos].
        """

    @abstractmethod
    def gain(self, point: int) -> Tensor:
        """The gain [d_model] of the norm through which point `point` is read.

        A bias of the norm plays no part: it is no part of a change.
        """

    @abstractmethod
    def moved(self, tokens: Tensor, moves: Mapping[int, Tensor]) -> Tensor:
        """Logits [batch, pos, vocab] of tokens [batch, pos] when reads are moved.

        `moves` are added to what the norm at a point returns, [batch, pos, d_model] per point.
        """

    @abstractmethod
    def reads(self, tokens: Tensor) -> dict[int, Tensor]:
        """What the norm at every point returns, [batch, pos, d_model] per point, on tokens [batch, pos]."""

    def moved_last(self, batch: PairBatch, moves: Mapping[int, Tensor]) -> Tensor:
        """`moved` after the last token of each prompt alone: logits [2n, vocab] of a batch of n pairs."""
        logits = self.moved(batch.tokens, moves)
        return logits[torch.arange(len(logits), dtype=torch.int64, device=logits.device), batch.last]


def count_points(n_layers: int) -> int:
    """Residual points of a model of this package: h_0 … h_2L."""
    return 2 * n_layers + 1


class OwnTarget(Target):
    """A model of this package, whose points are its residual points h_0 … h_2L."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model
        shape = model.config
        self.n_points, self.d_model = count_points(shape.n_layers), shape.d_model
        self.vocab_size, self.context = shape.vocab_size, shape.context

    def embed(self, tokens: Tensor) -> Tensor:
        """See `Target`; tokens [batch, pos] to [batch, pos, d_model]."""
        return self.model.embed(tokens)

    def run(self, resid: Tensor, start: int, stop: int) -> Tensor:
        """See `Target`; resid and the result are [batch, pos, d_model]."""
        return self.model.run(resid, start, stop)

    def unembed(self, resid: Tensor, tokens: Tensor) -> Tensor:
        """See `Target`; resid [batch, pos, d_model] and tokens [batch, pos] to [batch, pos, vocab]."""
        return self.model.unembed(resid, tokens)

    def gain(self, point: int) -> Tensor:
        """See `Target`."""
        return self.model.norms[point].weight.detach()

    def moved(self, tokens: Tensor, moves: Mapping[int, Tensor]) -> Tensor:
        """See `Target`; tokens [batch, pos] to [batch, pos, vocab]."""
        return self.model(tokens, norms=moved_by(moves))

    def reads(self, tokens: Tensor) -> dict[int, Tensor]:
        """See `Target`; tokens [batch, pos], reads [batch, pos, d_model]."""
        return reads_of(self.model, tokens)

    def moved_last(self, batch: PairBatch, moves: Mapping[int, Tensor]) -> Tensor:
        """See `Target`; the last layer runs at the last tokens alone. Logits are [2n, vocab]."""
        return last_logits(self.model, batch, norms=moved_by(moves, batch.last))


def reads_of(model: Transformer, tokens: Tensor) -> dict[int, Tensor]:
    """Every read of a model of this package, [batch, pos, d_model] per point, on tokens [batch, pos]."""
    recorder = ReadRecorder()
    model(tokens, norms=recorder)
    return recorder.values

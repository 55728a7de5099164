"""Steering: move a dense model's reads as if it had read the other prompt of a pair, through sparse nodes.

The difference that the other prompt makes to chosen reads of the sparse model goes through the decoder and is added to
the dense model's reads (Gao et al. 2025, A.4). Prompts of a pair are aligned at their last tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.bridge.reads import Decoder, Read, all_reads
from thinwire.bridge.targets import Target
from thinwire.display import one_line
from thinwire.model.transformer import Transformer
from thinwire.tasks import PairBatch, margin
from thinwire.tasks.batch import REST

Moves = Mapping[int, Tensor]
"""Changes of dense reads by point, [2n, pos, d_dense]."""


@one_line
@dataclass(frozen=True)
class Steered:
    """What steering did to the sequences of one side of the pairs."""

    log_odds: Tensor
    """Log-odds of the other prompt's answer over the prompt's own with steering, minus those without: float32 [n]."""
    log_ratios: Tensor
    """Log of the probability of the other prompt's answer with steering over that without: float32 [n]."""
    flips: Tensor
    """Whether the other prompt's answer became the likelier one: bool [n]."""
    log_probabilities: Tensor
    """Log of the probability of the other prompt's answer with steering: float32 [n]."""

    @property
    def ratio(self) -> float:
        """The geometric mean of the ratios of the probability of the other prompt's answer."""
        return float(self.log_ratios.mean().exp())


def swapped(batch: PairBatch) -> Tensor:
    """Index of the other prompt of each pair: int64 [2n]."""
    n = len(batch)
    return torch.arange(2 * n, dtype=torch.int64, device=batch.tokens.device).roll(n)


def differences(reads: Mapping[int, Tensor], batch: PairBatch) -> dict[int, Tensor]:
    """What the other prompt of a pair changes, [2n, pos, width] per point, from reads of the same shapes.

    Prompts are aligned at their last tokens; where the other prompt is shorter, nothing changes.
    """
    other = swapped(batch)
    positions = (
        torch.arange(batch.tokens.shape[1], dtype=torch.int64, device=batch.tokens.device)[None]
        + (batch.last[other] - batch.last)[:, None]
    )
    valid = (positions >= 0) & (positions <= batch.last[other][:, None])
    rows = other[:, None]
    found: dict[int, Tensor] = {}
    for point, x in reads.items():
        theirs = x[rows, positions.clamp(0, x.shape[1] - 1)]
        found[point] = torch.where(valid[..., None], theirs - x, torch.zeros_like(x))
    return found


@torch.no_grad()
def moved_logits(target: Target, batch: PairBatch, moves: Moves) -> Tensor:
    """Logits [2n, vocab] after the last token of each prompt when reads are moved."""
    return target.moved_last(batch, moves)


def steered(before: Tensor, after: Tensor, batch: PairBatch) -> tuple[Steered, Steered]:
    """What steering did to either side, from logits [2n, vocab] without and with it.

    The sides are named by the answer that is steered towards: first that of the second prompts.
    """
    shift = margin(before, batch) - margin(after, batch)
    reached = other_answers(after, batch)
    ratios = reached - other_answers(before, batch)
    flips = (margin(before, batch) > 0) & (margin(after, batch) < 0)
    n = len(batch)
    one, two = (Steered(shift[at], ratios[at], flips[at], reached[at]) for at in (slice(0, n), slice(n, 2 * n)))
    return one, two


def other_answers(logits: Tensor, batch: PairBatch) -> Tensor:
    """Log of the probability of the answer of the other prompt of the pair: float32 [2n], from logits [2n, vocab].

    An answer that is any token but the other one has the probability of all of these together.
    """
    logs = logits.float().log_softmax(-1)
    own, other = (logs.gather(1, answer.clamp(min=0)[:, None])[:, 0] for answer in (batch.target, batch.foil))
    return torch.where(batch.foil == REST, own - margin(logits, batch), other)


@one_line
@dataclass(frozen=True)
class Steering:
    """Steering on a batch of pairs: reads are recorded once and used for every choice of nodes."""

    target: Target
    decoder: Decoder
    batch: PairBatch
    deltas: Mapping[int, Tensor]
    """What the other prompt changes in the sparse model, [2n, pos, d_sparse] per point."""
    before: Tensor
    """Logits of the dense model by itself, [2n, vocab]."""

    @classmethod
    def of(cls, target: Target, sparse: Transformer, decoder: Decoder, batch: PairBatch) -> "Steering":
        """Record both models on a batch of pairs."""
        deltas = differences(all_reads(sparse, batch.tokens), batch)
        return cls(target, decoder, batch, deltas, moved_logits(target, batch, {}))

    def moves(self, reads: Sequence[Read]) -> Moves:
        """How the difference at some reads moves the dense model's."""
        return self.decoder.moves(self.deltas, reads)

    def along(self, moves: Moves, strength: float = 1.0) -> tuple[Steered, Steered]:
        """Both sides when the dense model's reads are moved by so many times `moves`."""
        scaled = {point: strength * move for point, move in moves.items()}
        return steered(self.before, moved_logits(self.target, self.batch, scaled), self.batch)

    def random_direction(self, moves: Moves, generator: torch.Generator) -> Moves:
        """Moves of the same norm at every token, along one random direction per point."""
        found: dict[int, Tensor] = {}
        for point, move in moves.items():
            direction = torch.randn(move.shape[-1], generator=generator, dtype=torch.float32, device="cpu")
            found[point] = move.norm(dim=-1, keepdim=True) * (direction / direction.norm())
        return found

    def shuffled(self, reads: Sequence[Read], moves: Moves, generator: torch.Generator) -> Moves:
        """Moves of the same size at every point, from the same reads through a bridge with columns in random order."""
        return norm_matched(moves, self.decoder.shuffled(generator).moves(self.deltas, reads))

    def own(self, reads: Sequence[Read]) -> Moves:
        """The dense model's own difference at the points of some reads, in all channels."""
        with torch.no_grad():
            seen = self.target.reads(self.batch.tokens)
        points = {self.decoder.to_dense[read.point] for read in reads}
        return differences({point: seen[point] for point in sorted(points)}, self.batch)

    def random_nodes(self, reads: Sequence[Read], moves: Moves, generator: torch.Generator) -> Moves:
        """Moves of the same size at every point over all tokens, through as many random channels."""
        return norm_matched(moves, self.moves(random_reads(reads, self.deltas, generator)))


def random_reads(reads: Sequence[Read], deltas: Mapping[int, Tensor], generator: torch.Generator) -> tuple[Read, ...]:
    """As many other channels, drawn at random from those that change at all, at the points of `reads`.

    `deltas` are [2n, pos, d_sparse] per point.
    """
    found: list[Read] = []
    for point in sorted({read.point for read in reads}):
        taken = {read.channel for read in reads if read.point == point}
        live = (deltas[point] != 0).flatten(0, -2).any(0).nonzero()[:, 0].tolist()
        free = [channel for channel in live if channel not in taken]
        chosen = torch.randperm(len(free), generator=generator, dtype=torch.int64, device="cpu")[: len(taken)].tolist()
        found += [Read(point, free[i]) for i in chosen]
    return tuple(found)


def norm_matched(moves: Moves, others: Moves) -> Moves:
    """`others` scaled so that at each point their root mean square over all tokens is that of `moves`.

    One factor a point, since a node that does not change at a token cannot be scaled up there.
    """
    found: dict[int, Tensor] = {}
    for point, move in moves.items():
        other = others.get(point, torch.zeros_like(move))
        size = other.norm()
        found[point] = other * (move.norm() / size) if size > 0 else other
    return found

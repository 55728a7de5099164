"""Pairs of prompts as tensors, and the task loss.

Every task is a binary choice. The loss of one sequence is the cross-entropy over just its two answers at its last
position; the task loss is the mean over all sequences of both sides (Gao et al. 2025; their stored numbers are sums
over pairs, twice this).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from thinwire.display import one_line
from thinwire.model.norms import Norms, ScaleRecorder, frozen, own_scales
from thinwire.model.taps import Tap, identity
from thinwire.tasks.use import PairUse

if TYPE_CHECKING:
    from thinwire.model import Transformer

REST = -1
"""Used instead of a token id: every token except the other answer, in tasks whose answers are X and not X."""
SLOT = "<?>"
"""Marks the place in the text of a pair where the two prompts differ."""


@dataclass(frozen=True)
class Pair:
    """Two prompts that differ only in what decides the answer."""

    prompts: tuple[str, str]
    answers: tuple[str, str]
    """answers[i] is right for prompts[i], the other one is wrong; an empty answer means any token but the other."""

    @classmethod
    def of(cls, text: str, sides: tuple[str, str], answers: tuple[str, str]) -> "Pair":
        """The pair of prompts that result from replacing `<?>` in a text by each of the sides."""
        return cls((text.replace(SLOT, sides[0]), text.replace(SLOT, sides[1])), answers)


@one_line
@dataclass(frozen=True)
class PairBatch:
    """n pairs as tensors: sequences 0 … n - 1 are one side, n … 2n - 1 the other side of the same pairs."""

    tokens: Tensor
    """An end of text and the prompt, padded on the right with 0: int64 [2n, pos]."""
    last: Tensor
    """Index of the last token of each prompt: int64 [2n]."""
    target: Tensor
    """Id of the right answer, or REST: int64 [2n]."""
    foil: Tensor
    """Id of the wrong answer, or REST: int64 [2n]."""
    use: PairUse | None = None
    """How many pairs were passed over for these; None for a part of a batch."""

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.tokens) // 2

    def to(self, device: torch.device | str) -> "PairBatch":
        """The same batch on another device."""
        moved = (tensor.to(device) for tensor in (self.tokens, self.last, self.target, self.foil))
        return PairBatch(*moved, use=self.use)

    def take(self, pairs: Tensor) -> "PairBatch":
        """The pairs with the given indices, int64 [m], in that order; padding that none of them needs is removed."""
        rows = torch.cat([pairs, pairs + len(self)]).to(self.tokens.device)
        last = self.last[rows]
        width = int(last.max()) + 1 if len(last) else 0
        return PairBatch(self.tokens[rows, :width], last, self.target[rows], self.foil[rows])

    def by_length(self, size: int) -> "list[BatchPart]":
        """Parts of up to `size` pairs of similar length, so that little padding is computed."""
        if not len(self):
            return []
        order = self.last.unflatten(0, (2, -1)).amax(0).argsort(stable=True)
        return [BatchPart(pairs, self.take(pairs)) for pairs in order.split(size)]


class BatchPart(NamedTuple):
    """Some pairs of a batch."""

    pairs: Tensor
    """Their indices in the whole batch: int64 [m]."""
    batch: PairBatch


def whole_sublayers(model: "Transformer") -> int:
    """Number of sublayers that run at all positions for the logits after the last token: all but the last layer's."""
    return len(model.sublayers) - 2


def last_logits(
    model: "Transformer",
    batch: PairBatch,
    tap: Tap = identity,
    resid: Tensor | None = None,
    start: int = 0,
    norms: Norms = own_scales,
) -> Tensor:
    """Logits [2n, vocab] after the last token of each prompt.

    `resid` is residual point h_start [2n, pos, d_model] of the batch, with `start` at most `whole_sublayers`; without
    it the pass starts at the embedding. The last layer runs at the last tokens only: see `Transformer.run_last`.
    """
    whole = whole_sublayers(model)
    assert start <= whole
    resid = model.embed(batch.tokens, tap=tap) if resid is None else resid
    resid = model.run(resid, start, whole, tap, norms=norms)
    tokens = batch.tokens.gather(1, batch.last[:, None])
    return model.unembed(model.run_last(resid, batch.last, tap, norms), tokens, norms)[:, 0]


@torch.no_grad()
def norms_on(model: "Transformer", batch: PairBatch, frozen_norms: bool, copies: int = 1) -> Norms:
    """The `norms` argument of `last_logits` for a batch: own scales, or with `frozen_norms` those of the whole model.

    `copies` says how often the batch is repeated along its first dimension.
    """
    if not frozen_norms:
        return own_scales
    recorder = ScaleRecorder()
    last_logits(model, batch, norms=recorder)
    return frozen(recorder.scales, copies)


def sequence_losses(logits: Tensor, batch: PairBatch) -> Tensor:
    """Loss of each sequence in nats, float32 [..., 2n], from logits [..., 2n, vocab] at the last positions."""
    return margin_losses(margin(logits, batch))


def margin_losses(margins: Tensor) -> Tensor:
    """Cross-entropy over two answers, in nats, from the log-odds of the right one; both of any one shape."""
    return F.softplus(-margins)


def task_loss(logits: Tensor, batch: PairBatch) -> Tensor:
    """The task loss: mean loss over all sequences of both sides, in nats, float32 scalar, from logits [2n, vocab]."""
    return loss_of(margin(logits, batch))


def loss_of(margins: Tensor) -> Tensor:
    """The task loss in nats, float32 scalar: the mean over all sequences of both sides, from margins [2n]."""
    return margin_losses(margins).mean()


def accuracy(logits: Tensor, batch: PairBatch) -> Tensor:
    """Fraction of sequences whose right answer is the likelier one, float32 [...], from logits [..., 2n, vocab]."""
    return accuracy_of(margin(logits, batch))


def accuracy_of(margins: Tensor) -> Tensor:
    """Fraction of sequences whose right answer is the likelier one, float32 [...], from margins [..., 2n]."""
    return (margins > 0).float().mean(-1)


def auc_of(margins: Tensor) -> Tensor:
    """Area under the ROC curve of the first answer's log-odds, float32 scalar, from margins [2n].

    It is the probability that these log-odds are higher in a prompt where the first answer is right than in one where
    it is wrong, ties counted half. No scale above 0 and no shift changes it.
    """
    right, wrong = margins.unflatten(0, (2, -1))
    wrong = (-wrong).sort().values
    below, ties_too = (torch.searchsorted(wrong, right, right=ties) for ties in (False, True))
    return (below + ties_too).float().mean() / (2 * len(wrong))


def margin(logits: Tensor, batch: PairBatch) -> Tensor:
    """Logit of the right answer minus that of the wrong one, float32 [..., 2n], from logits [..., 2n, vocab]."""
    logits = logits.float()
    return _logit(logits, batch.target, batch.foil) - _logit(logits, batch.foil, batch.target)


@torch.no_grad()
def p_correct(model: "Transformer", batch: PairBatch) -> Tensor:
    """Probability that a model gives the right answer of the two, float32 [2n] of a batch of n pairs."""
    return margin(last_logits(model, batch), batch).sigmoid()


def _logit(logits: Tensor, answer: Tensor, other: Tensor) -> Tensor:
    """Logit of each sequence's answer [..., 2n]; that of REST is the logsumexp over all tokens but the other answer."""
    rows = torch.arange(len(answer), device=answer.device, dtype=torch.int64)
    own = logits[..., rows, answer.clamp(min=0)]
    if not (answer == REST).any():
        return own
    removed = torch.zeros(logits.shape[-2:], dtype=torch.bool, device=logits.device)
    removed[rows, other.clamp(min=0)] = True
    rest = logits.masked_fill(removed, -torch.inf).logsumexp(-1)
    return torch.where(answer == REST, rest, own)

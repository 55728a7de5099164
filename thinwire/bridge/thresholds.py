"""Thresholds of monitored nodes, chosen on one half of labelled prompts and reported on the other.

1. Prompts of equal text stay together. The halves are drawn at random among the texts of each label.
2. On the first half: the side of the threshold is that on which the area under the ROC curve is at least 1/2, and the
   threshold the one of largest F1, midway between two neighbouring values.
3. On the second half: precision, recall, F1 and the area, each with a 95 % interval.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from thinwire.display import one_line
from thinwire.errors import UserError
from thinwire.verify.intervals import Z, wilson
from thinwire.verify.measurement import Interval

MIN_TEXTS = 4
"""Smallest number of different texts of each label."""


@one_line
@dataclass(frozen=True)
class Threshold:
    """Where a node's value flags a prompt."""

    value: float
    above: bool
    """Whether larger values are flagged, those equal to the threshold included; else smaller ones, likewise."""

    def flags(self, values: Tensor) -> Tensor:
        """Whether values [...] are flagged, bool [...]."""
        return values >= self.value if self.above else values <= self.value


@one_line
@dataclass(frozen=True)
class Detection:
    """How well a node tells prompts apart that were not used to choose its threshold."""

    threshold: Threshold
    positive: int
    """Held-out prompts that are labelled true."""
    negative: int
    precision: float | None
    """Share of the flagged prompts that are labelled true; None where none is flagged."""
    precision_interval: Interval | None
    recall: float
    """Share of the prompts labelled true that are flagged."""
    recall_interval: Interval
    f1: float
    f1_interval: Interval
    auc: float
    """Area under the ROC curve, for the threshold's side."""
    auc_interval: Interval

    def row(self) -> dict[str, object]:
        """As values for JSON."""
        return asdict(self)


def halves(texts: Sequence[str], labels: Sequence[bool], seed: int = 0) -> tuple[list[int], list[int]]:
    """Indices of the prompts that a threshold is chosen on, and of those that it is reported on.

    Raises UserError for a text with both labels, and for too few different texts of a label.
    """
    label_of: dict[str, bool] = {}
    for text, label in zip(texts, labels, strict=True):
        if label_of.setdefault(text, label) != label:
            raise UserError(f"The prompt {text[-40:]!r} is labelled both true and false; keep one of them.")
    chosen: set[str] = set()
    for label in (True, False):
        own = sorted(text for text, its in label_of.items() if its == label)
        if len(own) < MIN_TEXTS:
            raise UserError(
                f"There are {len(own)} different prompts labelled {str(label).lower()}, and a threshold needs "
                f"{MIN_TEXTS} of each label; label more, or give --threshold."
            )
        random.Random(seed).shuffle(own)
        chosen.update(own[: len(own) // 2])
    rows = range(len(texts))
    return [row for row in rows if texts[row] in chosen], [row for row in rows if texts[row] not in chosen]


def choose(values: Tensor, labels: Tensor) -> Threshold:
    """The threshold of largest F1, of values [n] of prompts with labels, bool [n], some true and some false.

    Of equally good ones it is the one in the widest gap between two values.
    """
    values = values.double()
    above = auc(values, labels) >= 0.5
    signed = values if above else -values
    order = signed.argsort(descending=True)
    ranked, true = signed[order], labels[order].double().cumsum(0)
    flagged = torch.arange(1, len(ranked) + 1, dtype=torch.float64, device=ranked.device)
    f1 = 2 * true / (flagged + true[-1])
    gap = torch.cat([ranked[:-1] - ranked[1:], ranked.new_full((1,), math.inf)])
    f1[gap == 0] = -1.0  # a threshold cannot part equal values
    best = f1 == f1.max()
    place = int(torch.where(best, gap, -1.0).argmax())
    value = float(ranked[place]) if place == len(ranked) - 1 else float((ranked[place] + ranked[place + 1]) / 2)
    return Threshold(value if above else -value, above)


def detection(threshold: Threshold, values: Tensor, labels: Tensor) -> Detection:
    """How well a threshold does on values [n] of prompts with labels, bool [n], some true and some false."""
    flagged = threshold.flags(values)
    hits, n_flagged, positive = (int(each.sum()) for each in (flagged & labels, flagged, labels))
    union = n_flagged + positive - hits
    shared = hits / union  # of the prompts that are flagged or labelled true; F1 is 2 · shared / (1 + shared)
    spread = wilson(shared, union)
    area = auc(values if threshold.above else -values, labels)
    return Detection(
        threshold=threshold,
        positive=positive,
        negative=len(labels) - positive,
        precision=hits / n_flagged if n_flagged else None,
        precision_interval=wilson(hits / n_flagged, n_flagged) if n_flagged else None,
        recall=hits / positive,
        recall_interval=wilson(hits / positive, positive),
        f1=2 * shared / (1 + shared),
        f1_interval=Interval(*(2 * end / (1 + end) for end in (spread.low, spread.high))),
        auc=area,
        auc_interval=auc_interval(area, positive, len(labels) - positive),
    )


def auc(values: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve of values [n] for labels, bool [n]: ties count half."""
    true, false = values[labels].double(), values[~labels].double().sort().values
    below, ties_too = (torch.searchsorted(false, true, right=ties) for ties in (False, True))
    return float((below + ties_too).double().mean() / (2 * len(false)))


def auc_interval(area: float, positive: int, negative: int) -> Interval:
    """95 % interval of an area under the ROC curve, which has a width even at 1 (Newcombe 2006, part 2, method 5).

    Its ends are where an area lies so many standard errors, of its own, from the measured one.
    """
    spread = (positive + negative) / 2 - 1

    def error(theta: float) -> float:
        inner = 1 + spread * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return Z * math.sqrt(theta * (1 - theta) * inner / (positive * negative))

    def end(inside: float, outside: float) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            within = abs(middle - area) <= error(middle)
            inside, outside = (middle, outside) if within else (inside, middle)
        return inside

    return Interval(end(area, 0.0), end(area, 1.0))

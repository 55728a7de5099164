"""Loss, accuracy and AUC, with their intervals, from the log-odds of the right answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from thinwire.tasks import accuracy_of, auc_of, loss_of, margin_losses
from thinwire.verify.intervals import auc_interval, bootstrap, wilson
from thinwire.verify.measurement import Interval, Judgement, Measurement

GUESSING = log(2)
"""Task loss of a model that finds both answers equally likely, nats."""
CLEARLY = 0.97
"""A loss below this share of GUESSING counts as better than guessing."""
ACCURACY = "Share of prompts for which the right answer is the likelier of the two. Guessing gives one half."

AUC = (
    "Probability that the log-odds of the first answer are higher in a prompt where it is right than in one where it "
    "is wrong. Guessing gives one half."
)


@dataclass(frozen=True)
class Condition:
    """What is measured, and how: the fields that all measurements of a check share."""

    check: str
    title: str
    """What readers call it: `circuit alone`."""
    ablation: str
    n: int
    """Pairs that are measured on."""
    split: str = "heldout"
    budget: str | None = None

    def loss(self, value: float, interval: Interval, meaning: str, quantity: str = "loss") -> Measurement:
        """A loss in nats as a measurement."""
        return self._measurement(quantity, value, "nats", interval, meaning)

    def accuracy(self, value: float, interval: Interval) -> Measurement:
        """A share of right answers as a measurement."""
        return self._measurement("accuracy", value, "fraction", interval, ACCURACY)

    def auc(self, value: float, interval: Interval) -> Measurement:
        """An area under the ROC curve as a measurement."""
        return self._measurement("AUC", value, "fraction", interval, AUC)

    def share(self, value: float, interval: Interval | None, meaning: str, quantity: str = "share") -> Measurement:
        """A share or a correlation as a measurement."""
        return self._measurement(quantity, value, "fraction", interval, meaning)

    def p_value(self, value: float, meaning: str, quantity: str) -> Measurement:
        """The p-value of a test as a measurement."""
        return self._measurement(quantity, value, "p", None, meaning)

    def count(self, value: float, unit: str, meaning: str, quantity: str) -> Measurement:
        """A number of things as a measurement; `unit` says of what: `edges`."""
        return self._measurement(quantity, value, unit, None, meaning)

    def _measurement(
        self, quantity: str, value: float, unit: str, interval: Interval | None, meaning: str
    ) -> Measurement:
        return Measurement(
            name=f"{self.check}.{quantity}",
            title=self.title,
            value=value,
            unit=unit,
            n=self.n,
            interval=interval,
            split=self.split,
            ablation=self.ablation,
            meaning=meaning,
            budget=self.budget,
        )


def mean_loss(margins: Tensor, condition: Condition, meaning: str, seed: int, quantity: str = "loss") -> Measurement:
    """The task loss from margins [2n], rows as in `PairBatch`.

    The interval is a percentile bootstrap over the n pairs; the two sequences of a pair stay together.
    """
    per_pair = margin_losses(margins).unflatten(0, (2, -1)).mean(0)
    return condition.loss(loss_of(margins).item(), bootstrap(per_pair, seed), meaning, quantity)


def averaged_loss(
    draws: Sequence[Tensor], condition: Condition, meaning: str, seed: int, quantity: str = "loss"
) -> Measurement:
    """The task loss averaged over several runs of the same pairs, margins [2n] each.

    The interval is a percentile bootstrap over the n pairs, not over the runs.
    """
    per_pair = margin_losses(torch.stack(tuple(draws))).unflatten(1, (2, -1)).mean((0, 1))
    return condition.loss(per_pair.mean().item(), bootstrap(per_pair, seed), meaning, quantity)


def mean_accuracy(margins: Tensor, condition: Condition) -> Measurement:
    """The accuracy from margins [2n], rows as in `PairBatch`.

    The interval is Wilson's with the n pairs as trials, since the two sequences of a pair are not independent.
    """
    share = accuracy_of(margins).item()
    return condition.accuracy(share, wilson(share, len(margins) // 2))


def auc(margins: Tensor, condition: Condition, seed: int) -> Measurement:
    """The area under the ROC curve of the first answer's log-odds from margins [2n], rows as in `PairBatch`.

    The interval is a percentile bootstrap over the n pairs.
    """
    return condition.auc(auc_of(margins).item(), auc_interval(margins, seed))


@dataclass(frozen=True)
class Shift:
    """What a calibration does to the accuracy of a circuit: a shift can make right what is at chance without it."""

    before: Measurement
    """Accuracy of the circuit's own log-odds."""
    after: Measurement
    """The calibrated accuracy on the same pairs."""
    shift: float
    """The calibration's shift, nats."""

    @property
    def judgement(self) -> Judgement:
        """Pass where the answers are right without the calibration; a warning at chance, or clearly below it."""
        high, calibrated = ends(self.before).high, ends(self.after).low
        if not ends(self.before).above_chance:
            return Judgement("warn", f"at chance before the calibration's shift of {self.shift:.3g}")
        if high < calibrated:
            return Judgement("warn", f"{self.after.value:.3f} only after the calibration's shift of {self.shift:.3g}")
        return Judgement("pass", "right without the calibration")

    def limits(self, other: Judgement) -> Judgement:
        """Another judgement of the calibrated circuit, which passes only if this one does; one that fails stays so."""
        own = self.judgement
        if own.status == "pass" or other.status == "fail":
            return other
        reason = f"accuracy is {self.before.value:.3f} before the calibration's shift of {self.shift:.3g}"
        return Judgement("warn", f"{other.reason}, but {reason}" if other.reason else reason)


def ends(one: Measurement) -> Interval:
    """The interval of a measurement, or its value at both ends."""
    return one.interval or Interval(one.value, one.value)


def against_target(value: float, target: float | None) -> Judgement:
    """Pass where a loss is at most the target, fail where it is above; info without a target. Nats."""
    if target is None:
        return Judgement("info", "")
    if value <= target:
        return Judgement("pass", f"meets the target of {target:.3f}")
    return Judgement("fail", f"misses the target of {target:.3f}")


def against_guessing(value: float) -> Judgement:
    """Pass where a loss is no better than guessing (at least 97 % of ln 2 nats), a warning where it is better."""
    if value >= CLEARLY * GUESSING:
        return Judgement("pass", "no better than guessing")
    return Judgement("warn", "better than guessing")

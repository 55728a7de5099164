"""The verdict on a circuit in a word and why: what its checks say together, and its weakest ones.

No word is "faithful": a circuit is sufficient under the ablations that were tried, and no further.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from thinwire.verify.measurement import Measurement, Status
from thinwire.verify.verdict import Verdict

WORST: tuple[Status, ...] = ("fail", "warn", "pass")
"""The status of a check is the first of these that one of its measurements has."""
WEAKEST = 3
"""How many of the weakest measurements are shown first."""
EXCHANGES = (
    "resample",
    "other_side",
    "pretraining",
    "scattered",
    "task_mean",
    "zero",
    "own_values",
    "subsets",
    "adversarial",
    "frozen_norms",
)
"""Checks that give the nodes outside a circuit other values than their means, or hold the norms."""
ROBUST = "robust"


@dataclass(frozen=True)
class Word:
    """What a verdict comes to."""

    word: str
    """Such as `sufficient under mean ablation only`."""
    status: Status
    """pass for a robust circuit, fail for one that is not sufficient or solves nonsense, warn for the others."""


def statuses(verdict: Verdict) -> dict[str, Status]:
    """The status of each check that states a threshold: the worst among its measurements."""
    found: dict[str, Status] = {}
    for one in verdict.measurements:
        if one.status != "info":
            worst: Status = found.get(one.check, "pass")
            found[one.check] = one.status if WORST.index(one.status) < WORST.index(worst) else worst
    return found


def word_of(verdict: Verdict) -> Word:
    """The word for a verdict; the first that applies, from the gravest to `robust`."""
    status, ablation = statuses(verdict), _ablation(verdict)
    missed = [check for check, found in status.items() if found != "pass"]
    if not status:
        return Word("not judged: no check has a threshold", "info")
    if status.get("sufficiency") == "fail":
        return Word(f"not sufficient under {ablation} ablation", "fail")
    if verdict.control:
        return Word(f"solves {verdict.control} answers", "fail")
    if "nonsense" in missed:
        return Word("no smaller than a circuit for nonsense", "fail")
    if "necessity" in missed:
        return Word("not needed by the model", "warn")
    if any(check in missed for check in EXCHANGES):
        return Word(f"sufficient under {ablation} ablation only", "warn")
    if missed:
        return Word(f"robust, except {_listed(verdict, missed)}", "warn")
    return Word(ROBUST, "pass")


def weakest(verdict: Verdict, n: int = WEAKEST) -> list[Measurement]:
    """The measurements that miss their thresholds by most, or meet them most narrowly: one of each check, worst first.

    Sorted by status, then by how far the value lies beyond its threshold.
    """
    judged = [one for one in deciding(verdict) if one.status != "info"]
    return sorted(judged, key=_gravity)[:n]


def _gravity(one: Measurement) -> tuple[int, float]:
    """Sorts the gravest measurement first: by status, then by how far the value lies beyond its threshold."""
    rank = len(WORST) if one.status == "info" else WORST.index(one.status)
    return rank, -(one.strain or 0.0)


def deciding(verdict: Verdict) -> list[Measurement]:
    """The measurement of each check that has its worst status and lies farthest from its threshold, or the first."""
    found: dict[str, Measurement] = {}
    for one in verdict.measurements:
        other = found.get(one.check)
        if other is None or _gravity(one) < _gravity(other):
            found[one.check] = one
    return list(found.values())


def verdict_line(verdict: Verdict) -> str:
    """Such as `Verdict: robust; 12 of 12 checks pass.`, and for others the weakest checks with their thresholds."""
    word, counts = word_of(verdict), Counter(statuses(verdict).values())
    total = sum(counts.values())
    if not total:
        return f"Verdict: {word.word}."
    line = f"Verdict: {word.word}; {counts['pass']} of {total} checks pass{'es' if counts['pass'] == 1 else ''}"
    missed = [one for one in weakest(verdict) if one.status != "pass"]
    return f"{line}. Weakest: {'; '.join(map(said, missed))}." if missed else f"{line}."


def said(one: Measurement) -> str:
    """A measurement with its threshold in words: `other pair's values outside: loss 8.300 nats (at most 0.3 nats)`."""
    unit = "" if one.unit == "fraction" else f" {one.unit}"
    limit = "" if one.threshold is None else f" (passes {one.threshold})"
    return f"{one.title}: {one.quantity} {one.number}{unit}{limit}"


def _listed(verdict: Verdict, checks: Sequence[str]) -> str:
    """The titles of some checks."""
    titles = {one.check: one.title for one in verdict.measurements}
    return ", ".join(titles[check] for check in checks)


def _ablation(verdict: Verdict) -> str:
    """What the circuit's nodes outside are ablated to, for reading."""
    found = [one.ablation for one in verdict.measurements if one.check == "sufficiency"]
    return (found[0] if found else "mean").replace("_", "-")

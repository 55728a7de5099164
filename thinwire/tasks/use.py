"""How many pairs of a task a batch holds, and how many were passed over and why."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import NonNegativeInt, with_config

from thinwire.config import STRICT
from thinwire.data.words import Split


@with_config(STRICT)
@dataclass(frozen=True)
class PairUse:
    """What became of the pairs of one split when a batch was made."""

    split: Split
    asked: NonNegativeInt
    """Pairs that were asked for."""
    used: NonNegativeInt
    """Pairs in the batch, all different."""
    indistinct: NonNegativeInt = 0
    """Pairs passed over because no token tells their two sides apart."""
    too_long: NonNegativeInt = 0
    """Pairs passed over because a prompt is longer than the model's context."""
    repeated: NonNegativeInt = 0
    """Pairs of the file that repeat an earlier one; each counts once."""
    held: NonNegativeInt | None = None
    """Pairs of this split in the file, repeated ones included; None for a task without a file."""

    @property
    def passed_over(self) -> dict[str, int]:
        """Number of pairs by the reason why they were passed over; reasons without pairs are left out."""
        counts = {
            "are told apart by no token": self.indistinct,
            "are longer than the context": self.too_long,
            "repeat other lines": self.repeated,
        }
        return {why: count for why, count in counts.items() if count}

    @property
    def worth_saying(self) -> bool:
        """Whether something was passed over, or there are fewer pairs than were asked for."""
        return bool(self.passed_over) or self.used < self.asked


def use_sentence(task: str, uses: Sequence[PairUse], what: str = "used") -> str:
    """The use of a task's pairs as one line; empty where every pair counts and there are as many as were asked for."""
    if not any(use.worth_saying for use in uses):
        return ""
    held = [use.held for use in uses if use.held is not None]
    counted = f"{sum(use.used for use in uses):,}{f' of {sum(held):,}' if held else ''} pairs {what}"
    why: Counter[str] = Counter()
    for use in uses:
        why.update(use.passed_over)
    passed = "".join(f"; {count:,} {reason}" for reason, count in why.items())
    return f"{task}: {counted}{passed} ({', '.join(map(_split, uses))})"


def _split(use: PairUse) -> str:
    """The use of one split, such as `train 12 of 110`."""
    if use.held is not None:
        return f"{use.split} {use.used:,} of {use.held:,}"
    return f"{use.split} {use.used:,}{f', {use.asked:,} asked for' if use.used < use.asked else ''}"


def flat_use(uses: Sequence[PairUse]) -> dict[str, object]:
    """The use of a task's pairs as values: pairs of each split, pairs passed over, and why; empty without any."""
    if not uses:
        return {}
    reasons: Counter[str] = Counter()
    for use in uses:
        reasons.update(use.passed_over)
    used: dict[str, object] = {f"{use.split}_pairs": use.used for use in uses}
    return used | {"passed_over": sum(reasons.values()), "passed_over_why": dict(reasons)}

"""The verdict in one line: how many checks pass, and what that says about the circuit.

No claim is "faithful": a circuit is sufficient under the ablation that was tried, and no further.
"""

from collections import Counter
from collections.abc import Sequence

from thinwire.verify.measurement import Measurement, Status
from thinwire.verify.verdict import Verdict

WORST: tuple[Status, ...] = ("fail", "warn", "pass")
"""The status of a check is the first of these that one of its measurements has."""
CLAIMS = {
    "sufficiency": ("sufficient under {} ablation", "not sufficient under {} ablation"),
    "uncalibrated": ("right without calibration", "not right without calibration"),
    "resample": ("sufficient with another pair's values outside", "not sufficient with another pair's values outside"),
    "necessity": ("needed by the model", "not shown to be needed"),
    "transfer": ("needed by the dense model", "not shown to be needed by the dense model"),
    "steering": ("steers the dense model", "does not steer the dense model"),
    "random": ("better than random circuits of its size", "not set apart from random circuits"),
}
"""What a passed check says about a circuit, and what any other status says."""


def verdict_line(verdict: Verdict) -> str:
    """Such as `Verdict: 1 of 2 checks passes, 1 warns: sufficient under mean ablation; not shown to be needed.`"""
    checks: dict[str, list[Measurement]] = {}
    for one in verdict.measurements:
        if one.status != "info":
            checks.setdefault(one.check, []).append(one)
    if not checks:
        return "Verdict: no check has a threshold to pass."
    worst = [min(found, key=lambda one: WORST.index(one.status)) for found in checks.values()]
    counts = Counter(one.status for one in worst)
    others = [f"{counts[status]} {status}{'s' if counts[status] == 1 else ''}" for status in ("warn", "fail")]
    said = ", ".join(text for text, status in zip(others, ("warn", "fail"), strict=True) if counts[status])
    passed = f"{counts['pass']} of {len(worst)} checks pass{'es' if counts['pass'] == 1 else ''}"
    return f"Verdict: {passed}{f', {said}' if said else ''}: {_claims(worst)}."


def _claims(worst: Sequence[Measurement]) -> str:
    """What the checks say, first those that pass."""
    passed = [_claim(one) for one in worst if one.status == "pass"]
    others = [_claim(one) for one in worst if one.status != "pass"]
    return "; ".join(", ".join(claims) for claims in (passed, others) if claims)


def _claim(one: Measurement) -> str:
    if one.check not in CLAIMS:
        return f"{one.title} {one.reason}".rstrip()
    passes, other = CLAIMS[one.check]
    return (passes if one.status == "pass" else other).format(one.ablation.replace("_", "-"))

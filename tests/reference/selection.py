"""Selection by magnitude, one number at a time. Plain Python floats hold float32 and bfloat16 values exactly."""

from collections.abc import Sequence


def largest(values: Sequence[float], k: int, reserved: Sequence[int] = ()) -> set[int]:
    """Indices of the k largest magnitudes, reserved indices first, ties to the lowest index."""
    chosen = set(reserved)
    while len(chosen) < min(k, len(values)):
        best = None
        for index, value in enumerate(values):
            if index not in chosen and (best is None or abs(value) > abs(values[best])):
                best = index
        assert best is not None
        chosen.add(best)
    return chosen


def keep(values: Sequence[float], k: int, reserved: Sequence[int] = ()) -> list[float]:
    """The values with all but the k largest magnitudes replaced by zero."""
    chosen = largest(values, k, reserved)
    return [value if index in chosen else 0.0 for index, value in enumerate(values)]


def keep_gradient(values: Sequence[float], gradient: Sequence[float], k: int) -> list[float]:
    """Gradient through `keep`: of the kept nonzeros, or of everything where fewer than k entries are nonzero."""
    kept = [value != 0 for value in keep(values, k)]
    if sum(kept) < k:
        return list(gradient)
    return [g if alive else 0.0 for g, alive in zip(gradient, kept, strict=True)]

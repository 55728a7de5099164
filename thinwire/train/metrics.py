"""metrics.jsonl: what a run logs, one JSON object a line; also passed on to other sinks, and read back as curves."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thinwire import artifact
from thinwire.display import one_line
from thinwire.errors import UserError
from thinwire.files import read_bytes, read_text
from thinwire.train.sinks import Sink

LARGEST = 2**53
"""Integers from here on are invalid as steps and counts: a float, and a browser, cannot represent all of them."""

LARGEST_METRICS = 1 << 30
"""Bytes of the largest metrics.jsonl that is read: those of a million steps."""


class Metrics:
    """An append-only metrics.jsonl; opened at `step`, it drops later lines, which a resumed run writes again."""

    def __init__(self, path: Path, step: int, sinks: Sequence[Sink] = ()) -> None:
        self.path = path
        self.sinks = sinks
        if os.path.lexists(path):
            lines = [line for line in _lines(path) if _step_of(line) <= step]
            artifact.write_text(path, "".join(line + "\n" for line in lines))

    def add(self, step: int, **values: object) -> None:
        """Append one line of JSON, and pass its numbers to the sinks."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | values) + "\n")
        numbers = dict(flatten(values))
        for sink in self.sinks:
            sink.write(step, numbers)

    def add_once(self, step: int, **values: object) -> None:
        """Append a line, unless one of this step already has the first of these values."""
        name = next(iter(values))
        lines = _lines(self.path)
        if not any(_step_of(line) == step and name in json.loads(line) for line in lines):
            self.add(step, **values)


class Muted(Metrics):
    """The metrics of a rank that writes nothing."""

    def __init__(self) -> None: ...

    def add(self, step: int, **values: object) -> None:
        """Write nothing."""

    def add_once(self, step: int, **values: object) -> None:
        """Write nothing."""


def _lines(path: Path) -> list[str]:
    """The lines of a file; none where it cannot be read."""
    try:
        return read_bytes(path, LARGEST_METRICS).decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _step_of(line: str) -> float:
    """The step of a line; infinity for a line that a crash truncated or that no run writes."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return float("inf")
    return step if type(step) is int and 0 <= step < LARGEST else float("inf")


def flatten(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested mappings by path, as in `val_losses/idioms`.

    Texts, booleans, nulls, and integers that a float cannot represent exactly are left out.
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}/")
        elif isinstance(value, float) or (type(value) is int and abs(value) < LARGEST):
            yield f"{prefix}{name}", value


@one_line
@dataclass(frozen=True)
class Curve:
    """The values of one number, and the steps at which they were logged."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def last(self) -> float:
        """The latest value."""
        return self.values[-1]


def read_metrics(folder: Path | str) -> dict[str, Curve]:
    """Every number in a model folder's metrics.jsonl by path, such as `loss` and `val_losses/idioms`.

    The run may still be training. Raises UserError when there is no such file.
    """
    path = Path(folder) / artifact.METRICS
    try:
        lines = read_text(path, LARGEST_METRICS).splitlines()
    except OSError:
        raise UserError(f"{path} cannot be read; give the folder of a model that was trained here.") from None
    points: dict[str, dict[int, float]] = {}
    for line in lines:
        if _step_of(line) == float("inf"):
            continue
        record = json.loads(line)
        for name, value in flatten(record):
            points.setdefault(name, {})[record["step"]] = value
    points.pop("step", None)
    return {name: Curve(tuple(found), tuple(found.values())) for name, found in points.items()}


def group(curves: Mapping[str, Curve], name: str) -> dict[str, Curve]:
    """The curves below one path: of `val_losses/idioms`, group `val_losses` has `idioms`."""
    return {path.removeprefix(f"{name}/"): curve for path, curve in curves.items() if path.startswith(f"{name}/")}

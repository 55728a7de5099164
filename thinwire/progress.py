"""Progress of long work: a callback, so that library code knows of no terminal; and the time that is left."""

from collections import deque
from collections.abc import Callable
from pathlib import Path

Report = Callable[[int, int, str], None]
"""Called with the units done, the units in total, and a short status such as `loss 2.31`."""
WINDOW_SECONDS, FEWEST = 30.0, 5
"""A pace is that of the reports of so many seconds, and at least of so many reports where each takes long."""
APART_SECONDS = 0.1
"""Reports nearer to each other than this count as one."""
ENOUGH_SECONDS = 1.0
"""A pace is unknown until it can be taken from so much time."""
MINUTE, HOUR, DAY = 60, 3600, 86_400


def silent(done: int, total: int, status: str) -> None:
    """The default: report nothing."""


class Note(str):
    """A status that is worth a line of its own, which stays when the work goes on."""


class Reused(Note):
    """The status where finished work in a folder is taken as it is."""

    folder: Path

    def __new__(cls, folder: Path) -> "Reused":
        made = super().__new__(cls, f"reused {folder}")
        made.folder = folder
        return made


class Pace:
    """The speed of recent work. The first unit only starts the clock, because it holds compilation and loading."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()
        self._total = 0

    def add(self, now: float, done: int, total: int) -> None:
        """Take in a report at the time `now`, seconds. Work that begins again, or changes its size, is a new pace."""
        points = self._points
        if total != self._total or (points and done < points[-1][1]):
            points.clear()
        self._total = total
        if done < 1 or (points and done == points[-1][1]):
            return
        if len(points) > 1 and now - points[-2][0] < APART_SECONDS:
            points.pop()
        points.append((now, done))
        while len(points) > FEWEST and points[1][0] < now - WINDOW_SECONDS:
            points.popleft()

    @property
    def rate(self) -> float | None:
        """Units per second; None until there is enough to tell."""
        if len(self._points) < 2:
            return None
        (began, first), (ended, last) = self._points[0], self._points[-1]
        return (last - first) / (ended - began) if ended - began >= ENOUGH_SECONDS else None

    def left(self, now: float) -> float | None:
        """Seconds left at the time `now`; None until there is enough to tell."""
        if self.rate is None:
            return None
        ended, done = self._points[-1]
        return max(0.0, (self._total - done) / self.rate - (now - ended))


def duration(seconds: float) -> str:
    """A time for reading: `8 s`, `3 min`, `1 h 20 min`, `2 d 3 h`."""
    if seconds < MINUTE - 0.5:
        return f"{seconds:.0f} s"
    if seconds < HOUR - MINUTE / 2:
        return f"{seconds / MINUTE:.0f} min"
    large, small, units = (HOUR, MINUTE, ("h", "min")) if seconds < DAY - MINUTE / 2 else (DAY, HOUR, ("d", "h"))
    whole, rest = divmod(round(seconds / small), large // small)
    return f"{whole:,} {units[0]}" + (f" {rest} {units[1]}" if rest else "")

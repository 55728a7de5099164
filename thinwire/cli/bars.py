"""Progress on stderr: one line that moves in a terminal, a line every few seconds elsewhere, and the time left."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress, ProgressColumn
from rich.text import Text

from thinwire.cli.terminal import NARROWEST, console
from thinwire.display import visible
from thinwire.progress import Pace, Report, duration

if TYPE_CHECKING:
    from rich.progress import Task

SECONDS_BETWEEN_LINES = 15
"""Seconds between two lines of progress where stderr is not a terminal."""
LONGEST_BAR, SHORTEST_BAR = 30, 4
TIME = 10
"""Columns kept for the time left, so that the bar keeps its length."""
Later = Callable[[], float | None]
"""Seconds that the phases after this one will take; None when that is unknown."""


@contextmanager
def progress(title: str, later: Later = lambda: 0.0) -> Iterator[Report]:
    """Progress of a phase, with the time left until the end of the command, on stderr."""
    screen = console(stderr=True)
    if not moves(screen):
        yield _lines(title, later)
        return
    with bars(screen) as bar:
        task = bar.add_task(title, total=None, status="", later=later)
        yield lambda done, total, status: bar.update(task, completed=done, total=total, status=status)
        total = bar.tasks[0].total or 1
        bar.update(task, completed=total, total=total)


def moves(screen: Console) -> bool:
    """Whether lines on this console can be drawn again in place: it is a terminal that is able to, and wide enough."""
    return screen.is_terminal and not screen.is_dumb_terminal and screen.size.width > NARROWEST


def bars(screen: Console) -> Progress:
    """Progress bars, each with the field `status`, and `later` where phases follow."""
    return Progress(_Line(screen), console=screen)


class _Line(ProgressColumn):
    """A whole line of progress that fits the terminal: the bar gives way first, then the status, then the title."""

    def __init__(self, screen: Console) -> None:
        super().__init__()
        self._screen = screen
        self._paces: dict[int, Pace] = {}

    def render(self, task: "Task") -> Text:
        """The line of a task."""
        total = None if task.total is None else int(task.total)
        title, status = visible(task.description), visible(task.fields.get("status", ""))
        count = f"{int(task.completed):,}/{total:,}" if total else ""
        if task.finished:
            time_text = duration(task.finished_time or 0)
        else:
            pace, now = self._paces.setdefault(task.id, Pace()), task.get_time()
            pace.add(now, int(task.completed), total or 0)
            time_text = remaining(pace, now, task.fields.get("later", lambda: 0.0))
        fraction = task.completed / task.total if task.total else 0.0
        return _fitted(self._screen.width - 1, (title, count, status, time_text), fraction)


def _fitted(width: int, parts: tuple[str, str, str, str], fraction: float) -> Text:
    """Title, count, bar, status and time in one line of at most `width` characters."""
    title, count, status, left = parts
    fixed = sum(max(len(part), least) + 2 for part, least in ((count, 0), (left, TIME)) if part or least)
    title = _cut(title, max(min(len(title), width - fixed - SHORTEST_BAR), 16))
    status = _cut(status, max(0, width - fixed - len(title) - 2))
    room = width - fixed - len(title) - (len(status) + 2 if status else 0) - 2
    line = Text(title, no_wrap=True, overflow="crop")
    if room >= SHORTEST_BAR:
        length = min(LONGEST_BAR, room)
        filled = min(length, int(length * fraction))
        line.append("  ").append("━" * filled, "bar.complete").append("─" * (length - filled), "bar.back")
    for part, style in ((count, "progress.download"), (status, ""), (left, "progress.remaining")):
        line.append(f"  {part}" if part else "", style)
    line.truncate(width)
    return line


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: max(0, length - 1)] + "…" * (length > 0)


def remaining(pace: Pace, now: float, later: Later) -> str:
    """The time left until the end of the command, for reading; empty while it is unknown."""
    own = pace.left(now)
    after = None if own is None else later()
    return "" if own is None or after is None else f"{duration(own + after)} left"


def _lines(title: str, later: Later = lambda: 0.0) -> Report:
    pace, written_at = Pace(), time.monotonic()

    def report(done: int, total: int, status: str) -> None:
        nonlocal written_at
        now = time.monotonic()
        pace.add(now, done, total)
        if now - written_at < SECONDS_BETWEEN_LINES and done < total:
            return
        written_at = now
        left = remaining(pace, now, later) if done < total else ""
        parts = [part for part in (f"{done}/{total}", visible(status), left) if part]
        sys.stderr.write(f"{visible(title)}: {', '.join(parts)}\n")
        sys.stderr.flush()

    return report


@dataclass
class Phases:
    """The phases of one command, counted through: `3/9 prune set_or_string`.

    What is left of the command is what is left of this phase and, for every later one, the time that a phase of its
    kind took, or, before the first of its kind, the time expected of it.
    """

    kinds: Sequence[str]
    """The kind of every phase, in order."""
    expected: Mapping[str, float]
    """Seconds expected of a phase of each kind, on any machine: only their ratios last."""
    begun: int = 0
    _spent: list[tuple[str, float]] = field(default_factory=list)

    def __call__(self, subject: str = "") -> AbstractContextManager[Report]:
        """The next phase, on a subject such as a task."""
        return self._phase(" ".join(filter(None, (self.kinds[self.begun], subject))))

    @contextmanager
    def _phase(self, title: str) -> Iterator[Report]:
        self.begun += 1
        began, kind = time.monotonic(), self.kinds[self.begun - 1]
        with progress(f"{self.begun}/{len(self.kinds)} {title}", self.later) as report:
            yield report
        self._spent.append((kind, time.monotonic() - began))

    def skip(self) -> None:
        """Pass over a phase that is not needed."""
        self.begun += 1

    def later(self) -> float:
        """Seconds that the phases after the present one are likely to take."""
        known = {kind: [spent for name, spent in self._spent if name == kind] for kind in self.kinds}
        planned = sum(self.expected[kind] for kind, _ in self._spent)
        speed = sum(spent for _, spent in self._spent) / planned if planned else 1.0
        return sum(
            sum(known[kind]) / len(known[kind]) if known[kind] else self.expected[kind] * max(speed, 0.1)
            for kind in self.kinds[self.begun :]
        )

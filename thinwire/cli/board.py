"""Live progress of many jobs on stderr: bars on a terminal, elsewhere a line when a job ends and every few seconds."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from thinwire.cli.bars import SECONDS_BETWEEN_LINES, bars, moves
from thinwire.cli.terminal import console
from thinwire.display import plural, visible
from thinwire.fanout.board import ATTEMPTS, Board
from thinwire.fanout.job import Job, Outcome

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

FORCE_THEM = "--force makes them again"


@contextmanager
def board(jobs: int, before: int) -> Iterator[Board]:
    """A board for `jobs` jobs, `before` of which an earlier run finished."""
    screen = console(stderr=True)
    if before:
        line = f"reused {before} of {jobs} jobs that an earlier run finished; {FORCE_THEM}"
        screen.print(line, markup=False, highlight=False, soft_wrap=True)
    if not moves(screen):
        yield Lines(jobs, before)
        return
    with bars(screen) as bar:
        yield Bars(bar, jobs, before)


def ending(job: Job, outcome: Outcome) -> str:
    """The outcome of a job, in one line."""
    if outcome.scores is not None and outcome.nodes is not None:
        size = f"{plural(outcome.nodes, 'node')}, {plural(outcome.scores.edges, 'edge')}"
        return visible(f"{job.title}: {size}, held-out loss {outcome.scores.heldout_loss:.3f}")
    return visible(f"{job.title}: {'parked; ' + outcome.error if outcome.error else outcome.missed}")


def trying_again(job: Job, attempt: int, why: str) -> str:
    """The note that a job will be tried again, in one line."""
    return visible(f"{job.title}: attempt {attempt} of {ATTEMPTS} failed, {why}; it will be tried again")


class Lines:
    """Plain lines."""

    def __init__(self, jobs: int, before: int) -> None:
        self.jobs, self.done, self.written_at = jobs, before, time.monotonic()
        self.statuses: dict[str, str] = {}

    def running(self, job: Job, done: int, total: int, status: str) -> None:
        """Write how far each job is, at most once in a while."""
        self.statuses[job.title] = f"{job.title} {100 * done // max(1, total)}%"
        if time.monotonic() - self.written_at > SECONDS_BETWEEN_LINES:
            self.write(f"running {', '.join(self.statuses.values())}")

    def failed(self, job: Job, attempt: int, why: str) -> None:
        """Write that a job will be tried again."""
        self.statuses.pop(job.title, None)
        self.write(trying_again(job, attempt, why))

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Write the outcome of a job."""
        self.done += 1
        self.statuses.pop(job.title, None)
        self.write(ending(job, outcome))

    def write(self, line: str) -> None:
        """Write a line that begins with the number of finished jobs."""
        self.written_at = time.monotonic()
        sys.stderr.write(f"{self.done}/{self.jobs} {visible(line)}\n")
        sys.stderr.flush()


class Bars:
    """One bar for every running job, and one for all jobs together."""

    def __init__(self, bar: "Progress", jobs: int, before: int) -> None:
        self.bar, self.rows = bar, dict[str, "TaskID"]()
        self.all = bar.add_task("all jobs", total=jobs, completed=before, status="")

    def running(self, job: Job, done: int, total: int, status: str) -> None:
        """Move the bar of the job."""
        if job.title not in self.rows:
            self.rows[job.title] = self.bar.add_task(visible(job.title), total=None, status="")
        self.bar.update(self.rows[job.title], completed=done, total=total, status=visible(status))

    def failed(self, job: Job, attempt: int, why: str) -> None:
        """Remove the bar of the job, and print why above the others."""
        self._end(job, trying_again(job, attempt, why))

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Remove the bar of the job, and print its outcome above the others."""
        self._end(job, ending(job, outcome))
        self.bar.advance(self.all)

    def _end(self, job: Job, line: str) -> None:
        self.bar.remove_task(self.rows.pop(job.title))
        self.bar.console.print(line, markup=False, highlight=False)

"""Live progress of many jobs on stderr: bars on a terminal, elsewhere a line for every end and now and then between."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from thinwire.cli.common import SECONDS_BETWEEN_LINES, bars, visible
from thinwire.fanout.board import ATTEMPTS, Board
from thinwire.fanout.job import Job, Outcome

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@contextmanager
def board(jobs: int, before: int) -> Iterator[Board]:
    """Shows so many jobs, some of which an earlier run had done."""
    console = Console(stderr=True)
    if before:
        console.print(f"{before} of {jobs} jobs were done before", markup=False, highlight=False)
    if not console.is_terminal:
        yield Lines(jobs, before)
        return
    with bars(console) as bar:
        yield Bars(bar, jobs, before)


def ending(job: Job, outcome: Outcome) -> str:
    """What came of a job, in a line."""
    if outcome.scores is not None:
        size = f"{outcome.nodes} nodes, {outcome.scores.edges} edges"
        return visible(f"{job.title}: {size}, held-out loss {outcome.scores.heldout_loss:.3f}")
    return visible(f"{job.title}: {'parked; ' + outcome.error if outcome.error else outcome.missed}")


def trying_again(job: Job, attempt: int, why: str) -> str:
    """That a job will be tried again, in a line."""
    return visible(f"{job.title}: attempt {attempt} of {ATTEMPTS} failed, {why}; it will be tried again")


class Lines:
    """Plain lines."""

    def __init__(self, jobs: int, before: int) -> None:
        self.jobs, self.done, self.said = jobs, before, time.monotonic()
        self.at_work: dict[str, str] = {}

    def running(self, job: Job, done: int, total: int, status: str) -> None:
        """Now and then, how far each job is."""
        self.at_work[job.title] = f"{job.title} {100 * done // max(1, total)}%"
        if time.monotonic() - self.said > SECONDS_BETWEEN_LINES:
            self.say(f"at work on {', '.join(self.at_work.values())}")

    def failed(self, job: Job, attempt: int, why: str) -> None:
        """That a job will be tried again."""
        self.at_work.pop(job.title, None)
        self.say(trying_again(job, attempt, why))

    def ended(self, job: Job, outcome: Outcome) -> None:
        """What came of a job."""
        self.done += 1
        self.at_work.pop(job.title, None)
        self.say(ending(job, outcome))

    def say(self, line: str) -> None:
        """A line that begins with how many jobs are done."""
        self.said = time.monotonic()
        sys.stderr.write(f"{self.done}/{self.jobs} {visible(line)}\n")
        sys.stderr.flush()


class Bars:
    """A bar for every job that runs, and one for all."""

    def __init__(self, bar: "Progress", jobs: int, before: int) -> None:
        self.bar, self.rows = bar, dict[str, "TaskID"]()
        self.all = bar.add_task("all jobs", total=jobs, completed=before, status="")

    def running(self, job: Job, done: int, total: int, status: str) -> None:
        """Move the job's bar."""
        if job.title not in self.rows:
            self.rows[job.title] = self.bar.add_task(visible(job.title), total=None, status="")
        self.bar.update(self.rows[job.title], completed=done, total=total, status=visible(status))

    def failed(self, job: Job, attempt: int, why: str) -> None:
        """Drop the job's bar, and say why above the others."""
        self._end(job, trying_again(job, attempt, why))

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Drop the job's bar, and say what came of it above the others."""
        self._end(job, ending(job, outcome))
        self.bar.advance(self.all)

    def _end(self, job: Job, line: str) -> None:
        self.bar.remove_task(self.rows.pop(job.title))
        self.bar.console.print(line, markup=False, highlight=False)

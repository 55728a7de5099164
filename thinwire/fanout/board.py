"""Where a fan-out reports the state of its jobs."""

from typing import Protocol

from thinwire.fanout.job import Job, Outcome

ATTEMPTS = 3
"""How often a job is tried before it is parked: recorded as failed and left out."""


class Board(Protocol):
    """Receives the state of every job."""

    def running(self, job: Job, done: int, total: int, status: str) -> None:
        """A job has done a part of its work; the status is empty when it begins."""
        ...

    def failed(self, job: Job, attempt: int, why: str) -> None:
        """An attempt, counted from 1, has failed, and the job will be tried again."""
        ...

    def ended(self, job: Job, outcome: Outcome) -> None:
        """A job will not run again."""
        ...


class Quiet:
    """Reports nothing."""

    def running(self, job: Job, done: int, total: int, status: str) -> None:
        """Nothing."""

    def failed(self, job: Job, attempt: int, why: str) -> None:
        """Nothing."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Nothing."""

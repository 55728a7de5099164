"""Jobs for the fake worker, a board that remembers, and whether a process still lives."""

import fcntl
import sys
import time
from pathlib import Path

import pytest

from thinwire.fanout.job import Job, Outcome
from thinwire.prune.config import PruneConfig

FAKE = Path(__file__).with_name("fake_worker.py")


def fake(folder: Path) -> list[str]:
    """The command of the fake worker."""
    return [sys.executable, str(FAKE), str(folder)]


def job(folder: Path, task: str) -> Job:
    """A job whose circuit lies in `folder/circuits`."""
    return Job(name="toy", model=folder, tokens=folder, task=task, config=PruneConfig(), out=folder / "circuits" / task)


class Memory:
    """A board that keeps every report."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, str, str]] = []
        self.at_work: set[str] = set()
        self.most = 0

    def running(self, job: Job, done: int, total: int, status: str) -> None:
        self.at_work.add(job.task)
        self.most = max(self.most, len(self.at_work))
        if status:
            self.reports.append(("running", job.task, f"{done}/{total} {status}"))

    def failed(self, job: Job, attempt: int, why: str) -> None:
        self.at_work.remove(job.task)
        self.reports.append(("failed", job.task, f"{attempt}: {why}"))

    def ended(self, job: Job, outcome: Outcome) -> None:
        self.at_work.remove(job.task)
        self.reports.append(("ended", job.task, outcome.error or ""))


def wait_until_unlocked(path: Path) -> None:
    """Until no process holds a file locked; fails after a minute."""
    with open(path, encoding="utf-8") as file:
        for _ in range(6000):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.01)
    pytest.fail(f"{path.name} is still running")

"""Jobs in processes of this machine: one process per job, a few at a time, and no process outlives the driver.

1. A new process gets its job as a line of JSON on its stdin, which stays open: see `thinwire.fanout.worker`.
2. A thread per process passes its lines to the driver, and then None at its end.
3. A process that ends without a result has failed; its job is tried again after the others, three times in all.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue

from thinwire import artifact
from thinwire.fanout.board import ATTEMPTS, Board, Quiet
from thinwire.fanout.job import Job, Outcome
from thinwire.files import open_regular
from thinwire.train.rates import usable_cores

WORKER = (sys.executable, "-m", "thinwire.fanout.worker")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Variables with the number of threads that libraries may use in a process."""
TAIL_BYTES = 4096
"""Bytes at the end of a log that are searched for its last line."""


@dataclass
class Child:
    """A process that runs a job."""

    job: Job
    process: subprocess.Popen[bytes]
    outcome: Outcome | None = None
    """The outcome that it reported."""

    def take(self, line: bytes, board: Board) -> None:
        """Handle a line that the process wrote."""
        try:
            message = json.loads(line)
        except ValueError:  # cut short by the death of the process
            return
        if "status" in message:
            board.running(self.job, message["done"], message["total"], message["status"])
            return
        if "refused" in message:
            self.outcome = Outcome.without(self.job, error=message["refused"])
        else:
            self.outcome = Outcome.parse(message["outcome"])
        self.dismiss()

    def why(self) -> str:
        """Why it ended without a result, in a phrase."""
        code = self.process.returncode
        if code < 0:
            return f"its process was killed ({signal.Signals(-code).name}), perhaps for want of memory"
        return f"its process ended with exit code {code}: {last_line(self.job)}"

    def dismiss(self) -> None:
        """Close the stdin of the process, which makes it exit."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has died before it read its job
            self.process.stdin.close()

    def stop(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait()
        self.dismiss()


@dataclass
class Crew:
    """The running processes, and the lines they write."""

    workers: int
    command: Sequence[str]
    running: list[Child] = field(default_factory=list)
    lines: SimpleQueue[tuple[Child, bytes | None]] = field(default_factory=SimpleQueue)
    """Lines in the order they are written; None at the end of a process."""

    def start(self, job: Job) -> None:
        """Start a process for a job."""
        share = str(max(1, usable_cores() // self.workers))
        with open(job.log, "ab") as log:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | dict.fromkeys(THREADS, share),
                start_new_session=True,  # Ctrl-C is handled by the driver alone
            )
        child = Child(job, process)
        self.running.append(child)
        threading.Thread(target=self._listen, args=(child,), daemon=True).start()
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has died already, which the thread will report
            process.stdin.write(job.model_dump_json().encode() + b"\n")
            process.stdin.flush()

    def _listen(self, child: Child) -> None:
        assert child.process.stdout is not None
        with child.process.stdout as lines:
            for line in lines:
                self.lines.put((child, line))
        child.process.wait()
        self.lines.put((child, None))

    def stop(self) -> None:
        """End all processes."""
        for child in self.running:
            child.stop()


def run_local(
    jobs: Sequence[Job], workers: int, board: Board | None = None, command: Sequence[str] = WORKER
) -> list[Outcome]:
    """Run jobs in at most `workers` processes at a time; returns their outcomes in the order of the jobs.

    A job whose process dies `ATTEMPTS` times, or that is refused once, is parked with its error; the others continue.
    """
    board, crew = board or Quiet(), Crew(workers, command)
    pending, attempts, outcomes = deque(jobs), Counter(), {}
    for job in jobs:
        artifact.make_parents(job.log)
        job.log.unlink(missing_ok=True)
    try:
        while pending or crew.running:
            while pending and len(crew.running) < workers:
                board.running(pending[0], 0, 1, "")
                crew.start(pending.popleft())
            child, line = crew.lines.get()
            if line is not None:
                child.take(line, board)
                continue
            crew.running.remove(child)
            child.dismiss()
            job, outcome = child.job, child.outcome
            if outcome is None:
                attempts[job.out] += 1
                if attempts[job.out] < ATTEMPTS:
                    board.failed(job, attempts[job.out], child.why())
                    pending.append(job)
                    continue
                outcome = Outcome.without(job, error=f"Failed {ATTEMPTS} times, at last because {child.why()}.")
            if outcome.error is None:
                job.log.unlink(missing_ok=True)
            outcomes[job.out] = outcome
            board.ended(job, outcome)
    finally:
        crew.stop()
    return [outcomes[job.out] for job in jobs]


def last_line(job: Job) -> str:
    """The last line that the processes of the job wrote to stderr."""
    with open_regular(job.log) as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - TAIL_BYTES))
        end = log.read().decode(errors="replace")
    lines = [line.strip() for line in end.splitlines() if line.strip()]
    return lines[-1] if lines else "its log is empty"

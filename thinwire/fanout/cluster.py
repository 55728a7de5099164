"""Jobs as tasks of a Ray cluster (the extra `[cluster]`): the same job function, on any machine of the cluster.

Every machine needs this package and sees the workspace and the tokens under the same paths, on a shared file system.
Ray itself starts a task again whose process or machine has died.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from thinwire import artifact
from thinwire.errors import UserError
from thinwire.fanout.board import ATTEMPTS, Board, Quiet
from thinwire.fanout.job import Job, Outcome, run_job
from thinwire.train.rates import usable_cores

LOCAL = "local"
"""The address that starts a cluster on this machine and ends it with the jobs."""
KNOCK_SECONDS = 10.0
"""Seconds that a cluster may take to answer."""
SECONDS_BETWEEN = 10.0
"""Seconds that the driver waits for a task before it reports again what is running."""


def run_on_ray(jobs: Sequence[Job], address: str, workers: int | None, board: Board | None = None) -> list[Outcome]:
    """Run jobs on the Ray cluster at `address`, at most `workers` at a time; returns outcomes in the order of the jobs.

    Raises UserError when Ray is not installed or no cluster answers.
    """
    ray = _package()
    board = board or Quiet()
    outcomes: dict[object, Outcome] = {}
    with _joined(ray, address, workers):
        cores = max(1, usable_cores() // (workers or 1)) if address == LOCAL else 1
        attempt = ray.remote(num_cpus=cores, max_retries=ATTEMPTS - 1, retry_exceptions=True)(_attempt)
        pending, running = list(reversed(jobs)), {}
        try:
            while pending or running:
                while pending and len(running) < (workers or len(jobs)):
                    job = pending.pop()
                    board.running(job, 0, 1, "")
                    running[attempt.remote(job.model_dump_json())] = job
                for ready in ray.wait(list(running), timeout=SECONDS_BETWEEN)[0]:
                    job = running.pop(ready)
                    outcomes[job.out] = _outcome(ray, job, ready)
                    board.ended(job, outcomes[job.out])
                for job in running.values():
                    board.running(job, 0, 1, "on the cluster")
        finally:
            for task in running:
                ray.cancel(task, force=True)
    return [outcomes[job.out] for job in jobs]


def _attempt(text: str) -> str:
    """The job function as a task: JSON in, JSON out; a refusal is a result, so that it is not tried again."""
    job = Job.parse(text, "The job")
    try:
        return run_job(job).to_json()
    except UserError as error:
        return Outcome.without(job, error=str(error)).to_json()


def _outcome(ray, job: Job, ready: object) -> Outcome:
    """The outcome of a finished task; after a failure, the message of Ray is in the log of the job."""
    try:
        outcome = Outcome.parse(ray.get(ready))
    except ray.exceptions.RayError as error:
        artifact.write_text(job.log, f"{error}\n")
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Outcome.without(job, error=f"Failed {ATTEMPTS} times, at last because {lines[-1].strip()}")
    if outcome.scores is not None and not artifact.is_finished(job.out):
        return Outcome.without(job, error=f"{job.out} was written on another machine; choose a folder that all share.")
    return outcome


@contextmanager
def _joined(ray, address: str, workers: int | None) -> Iterator[None]:
    """Within the block, this process is a driver of the cluster."""
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports over the network
        quiet |= {"include_dashboard": False, "num_cpus": max(workers or 1, usable_cores())}
    try:
        _knock(address)
        ray.init(address=address, **quiet)
    except (OSError, ValueError):
        raise UserError(f"No Ray cluster answers at {address}; start one with `ray start`, or give local.") from None
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError at once where nothing listens at HOST:PORT; Ray itself takes minutes to find out."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()


def _package():
    try:
        return import_module("ray")
    except ImportError:
        raise UserError("The package ray is not installed; run pip install 'thinwire[cluster]'.") from None

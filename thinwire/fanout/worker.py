"""The process of one job: `python -m thinwire.fanout.worker`, started by `thinwire.fanout.local`.

It reads a job as one line of JSON from stdin and writes lines of JSON to stdout: `{"done", "total", "status"}` for its
progress, then either `{"outcome"}` or `{"refused"}`. Any other end is a failure. It exits as soon as stdin ends, so
that no worker continues when the driver is killed.
"""

import io
import json
import os
import threading
import time
from collections.abc import Callable

from thinwire.errors import UserError
from thinwire.progress import Report

SECONDS_BETWEEN = 0.5
"""Seconds between two reports of progress, at least."""


def serve(do: Callable[[str, Report], str]) -> None:
    """Run the job that comes on stdin; `do` takes its JSON and returns the JSON of its outcome."""
    stdin = io.FileIO(0, closefd=False)  # not buffered, so that the thread below may be cut off at any time
    line = stdin.readline()
    threading.Thread(target=_end_with_driver, args=(stdin,), daemon=True).start()
    stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output of libraries goes to the log
    reported_at = 0.0

    def write(**message: object) -> None:
        stdout.write(json.dumps(message) + "\n")
        stdout.flush()

    def report(done: int, total: int, status: str) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at >= SECONDS_BETWEEN:
            reported_at = time.monotonic()
            write(done=done, total=total, status=status)

    try:
        write(outcome=do(line.decode(), report))
    except UserError as error:
        write(refused=str(error))


def _end_with_driver(stdin: io.FileIO) -> None:
    while stdin.read(4096):
        pass
    os._exit(1)


def _do(text: str, report: Report) -> str:
    from thinwire.fanout.job import Job, run_job  # late, so that the thread of `serve` runs first

    return run_job(Job.parse(text, "The job"), report).to_json()


if __name__ == "__main__":
    serve(_do)

"""The process of one job: `python -m thinwire.fanout.worker`, started by `thinwire.fanout.local`.

It reads a job as one line of JSON from stdin and writes lines of JSON to stdout: `{"done", "total", "status"}` on the
way, then either `{"outcome"}` or `{"refused"}`. Any other end is a failure. It exits as soon as stdin ends, so that
nothing goes on when the driver is killed.
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
"""Progress is said at most this often."""


def serve(do: Callable[[str, Report], str]) -> None:
    """Do the job that comes on stdin; `do` takes its JSON and returns that of its outcome."""
    stdin = io.FileIO(0, closefd=False)  # not buffered: nothing is held when the thread below is cut off
    line = stdin.readline()
    threading.Thread(target=_end_with_driver, args=(stdin,), daemon=True).start()
    stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to the log
    said = 0.0

    def say(**message: object) -> None:
        stdout.write(json.dumps(message) + "\n")
        stdout.flush()

    def report(done: int, total: int, status: str) -> None:
        nonlocal said
        if time.monotonic() - said >= SECONDS_BETWEEN:
            said = time.monotonic()
            say(done=done, total=total, status=status)

    try:
        say(outcome=do(line.decode(), report))
    except UserError as error:
        say(refused=str(error))


def _end_with_driver(stdin: io.FileIO) -> None:
    while stdin.read(4096):
        pass
    os._exit(1)


def _do(text: str, report: Report) -> str:
    from thinwire.fanout.job import Job, run_job  # late: from its first moment on, the process ends with the driver

    return run_job(Job.parse(text, "The job"), report).to_json()


if __name__ == "__main__":
    serve(_do)

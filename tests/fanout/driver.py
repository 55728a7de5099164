"""A driver of a fan-out with fake workers. Arguments: folder, workers, then the tasks; stdout gets the outcomes."""

import sys
from pathlib import Path

from pieces import fake, job

from thinwire.fanout.local import run_local


def main() -> None:
    folder, workers, *tasks = sys.argv[1:]
    jobs = [job(Path(folder), task) for task in tasks]
    for outcome in run_local(jobs, int(workers), command=fake(Path(folder))):
        sys.stdout.write(outcome.to_json() + "\n")


main()

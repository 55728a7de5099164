"""A worker of the fan-out whose job does as its task's name says, in no time and without torch.

Arguments: a folder, in which each attempt leaves a file TASK-NUMBER that it holds locked for as long as it lives.
`fine` ends well; `raises` fails with an exception; `killed` and `killed_once` die at every and at the first attempt;
`refused` raises UserError; `waits` continues until a file called `go` is in the folder. The file says how many threads
the process may use.
"""

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

from thinwire.errors import UserError
from thinwire.fanout.worker import serve
from thinwire.progress import Report

FOLDER = Path(sys.argv[1])


def fake(text: str, report: Report) -> str:
    job = json.loads(text)
    kind = job["task"].partition(".")[0]
    attempt = len(list(FOLDER.glob(f"{job['task']}-*"))) + 1
    with open(FOLDER / f"{job['task']}-{attempt}", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(os.environ["OMP_NUM_THREADS"])
        file.flush()
        report(1, 2, f"attempt {attempt}")
        print("what a library prints does no harm")
        if kind == "killed" or (kind == "killed_once" and attempt == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "raises":
            raise RuntimeError("the weights are upside down")
        if kind == "refused":
            raise UserError("This will never do; give up.")
        while kind == "waits" and not (FOLDER / "go").exists():
            time.sleep(0.01)
        Path(job["out"]).mkdir(parents=True, exist_ok=True)
        return json.dumps({"model": job["name"], "task": job["task"], "out": job["out"], "nodes": 3})


serve(fake)

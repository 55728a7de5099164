"""Jobs in processes: they come back in order, the dying are tried again, and none outlives its driver."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pieces import Memory, fake, job, wait_until_unlocked

from thinwire.fanout.local import run_local
from thinwire.train.rates import usable_cores


def attempts(folder: Path, task: str) -> int:
    return len(list(folder.glob(f"{task}-*")))


def test_jobs_go_side_by_side_and_come_back_in_order(tmp_path: Path) -> None:
    memory = Memory()
    jobs = [job(tmp_path, f"fine.{number}") for number in range(4)]
    outcomes = run_local(jobs, 3, memory, fake(tmp_path))
    assert [outcome.task for outcome in outcomes] == [job.task for job in jobs]
    assert all((outcome.nodes, outcome.error) == (3, None) for outcome in outcomes)
    assert memory.most == 3
    assert {("running", job.task, "1/2 attempt 1") for job in jobs} <= set(memory.reports)
    assert not list(tmp_path.glob("circuits/*.log"))
    share = str(max(1, usable_cores() // 3))
    assert {(tmp_path / f"{job.task}-1").read_text() for job in jobs} == {share}


def test_a_dying_worker_costs_only_its_job_and_that_is_tried_again(tmp_path: Path) -> None:
    memory = Memory()
    jobs = [job(tmp_path, task) for task in ("killed_once", "fine")]
    outcomes = run_local(jobs, 1, memory, fake(tmp_path))
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert (attempts(tmp_path, "killed_once"), attempts(tmp_path, "fine")) == (2, 1)
    assert [report[:2] for report in memory.reports if report[0] != "running"] == [
        ("failed", "killed_once"),
        ("ended", "fine"),  # the others run first
        ("ended", "killed_once"),
    ]
    assert not list(tmp_path.glob("circuits/*.log"))


def test_jobs_that_keep_failing_are_parked_with_their_error(tmp_path: Path) -> None:
    jobs = [job(tmp_path, task) for task in ("raises", "killed", "refused", "fine")]
    raises, killed, refused, fine = run_local(jobs, 2, command=fake(tmp_path))
    assert raises.error == (
        "Failed 3 times, at last because its process ended with exit code 1: RuntimeError: the weights are upside down."
    )
    assert "was killed (SIGKILL)" in (killed.error or "")
    assert refused.error == "This will never do; give up."
    assert fine.error is None
    assert [attempts(tmp_path, job.task) for job in jobs] == [3, 3, 1, 1]
    assert jobs[0].log.read_text().count("upside down") == 6  # the raising line and the message, three times


def test_no_worker_outlives_its_driver(tmp_path: Path) -> None:
    drivers = {how: start_driver(tmp_path / how.name) for how in (signal.SIGKILL, signal.SIGINT)}
    at_work = [tmp_path / how.name / f"waits.{number}-1" for how in drivers for number in (1, 2)]
    for _ in range(6000):
        if all(path.exists() and path.read_text() for path in at_work):
            break
        assert all(driver.poll() is None for driver in drivers.values())
        time.sleep(0.01)
    for how, driver in drivers.items():
        os.kill(driver.pid, how)
        assert driver.wait(timeout=60) != 0
    for path in at_work:
        wait_until_unlocked(path)


def start_driver(folder: Path) -> subprocess.Popen:
    folder.mkdir()
    command = [sys.executable, str(Path(__file__).with_name("driver.py")), str(folder), "2", "waits.1", "waits.2"]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=heed_interrupts)


def heed_interrupts() -> None:
    """Undo what a shell does to background jobs: they, and their children, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

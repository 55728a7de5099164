"""A fan-out with real processes: worker and driver are killed, Ctrl-C, and a Ray cluster of this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_workspace import PRUNE, Thinwire, start, wait_for

TASKS = ["bracket_counting", "set_or_string", "single_double_quote", "while_return_true"]
SEARCH = [*PRUNE, "--trials", "2", "--steps", "60", "--search", "6", "--patience", "9"]
UNTIMED = ("seconds", "reused", "out")


def untimed(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in UNTIMED} for row in rows]


def workers(driver: subprocess.Popen) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_killed_worker_and_driver_change_nothing(work: Path, tmp_path: Path, thinwire: Thinwire) -> None:
    undisturbed = Path(shutil.copytree(work, tmp_path / "undisturbed" / "work"))
    words = ["--tasks", *TASKS, "--workers", "2", *SEARCH, "--json"]
    expected = thinwire("prune", undisturbed / "model", *words).json

    def rounds(task: str) -> bool:
        return (work / f"circuits/{task}-search/trials.jsonl").exists()

    driver = start("prune", work / "model", *words)
    wait_for(lambda: rounds(TASKS[0]), driver)
    os.kill(workers(driver)[0], signal.SIGKILL)
    wait_for(lambda: any(rounds(task) for task in TASKS[2:]), driver)
    left = workers(driver)
    driver.kill()
    said = driver.communicate(timeout=60)[1]
    assert "attempt 1 of 3 failed, its process was killed (SIGKILL)" in said
    again = start("prune", work / "model", *words)
    assert left
    wait_for(lambda: not any(map(alive, left)), again)
    out, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    found = json.loads(out.splitlines()[-1])
    assert untimed(found["jobs"]) == untimed(expected["jobs"])
    assert found["geomean_edges"] == expected["geomean_edges"]
    assert not list(work.glob("circuits/*.log"))


@pytest.mark.slow
def test_interrupted_fanout_goes_on(work: Path, thinwire: Thinwire) -> None:
    words = ["prune", work / "model", "--tasks", *TASKS[:2], "--workers", "2", *SEARCH]
    driver = start(*words)
    wait_for(lambda: (work / f"circuits/{TASKS[0]}.log").exists(), driver)
    thinwire(*words).refused("Another process is writing in")
    driver.send_signal(signal.SIGINT)
    out, said = driver.communicate(timeout=60)
    assert (driver.returncode, out) == (1, "")
    assert said.splitlines()[-1].startswith("thinwire: Interrupted; finished artefacts are intact")
    assert "Traceback" not in said
    assert thinwire(*words).code == 0


@pytest.mark.slow
def test_a_local_ray_of_two_workers(work: Path, thinwire: Thinwire) -> None:
    pytest.importorskip("ray")
    words = ["prune", work / "model", "--tasks", *TASKS[:2], *PRUNE, "--force", "--json"]
    ray = start(*words, "--workers", "2", "--ray", "local")
    out, said = ray.communicate(timeout=600)  # its workers are nice, and wait for all else on this machine
    assert ray.returncode == 0, said
    assert "2/2 " in said
    on_ray = json.loads(out.splitlines()[-1])
    assert untimed(on_ray["jobs"]) == untimed(thinwire(*words).json["jobs"])


def test_ray_that_is_not_there(
    finished: Path, tmp_path: Path, thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["prune", finished / "model", "--task", TASKS[1], *PRUNE, "--out", tmp_path / "new", "--ray"]
    monkeypatch.setitem(sys.modules, "ray", None)
    thinwire(*words, "local").refused("pip install 'thinwire[cluster]'")

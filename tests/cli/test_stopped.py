"""Verbs stopped by Ctrl-C, killed, run twice at once, or piped into a reader that leaves: the same command finishes."""

import signal
import subprocess
from pathlib import Path

import pytest
from cli_workspace import DATA, PRUNE, TASK, TRAIN, Thinwire, stamps, start, wait_for

from thinwire.cli import bars

LONG = [*TRAIN, "--steps", "120", "--log-every", "1"]
SLOW_DATA = [*DATA, "--idioms", "20000"]


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def stop(process: subprocess.Popen, how: signal.Signals) -> None:
    """Signal a process and check what it says of it: one sentence and exit 1, or nothing when it is killed."""
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    if how == signal.SIGKILL:
        assert process.returncode == -9
        return
    assert process.returncode == 1, err
    assert "Traceback" not in err
    assert [line for line in err.splitlines() if line.startswith("thinwire: ")] == err.splitlines()[-1:]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_training_goes_on(how: signal.Signals, work: Path, thinwire: Thinwire) -> None:
    words = ["train", work / "tokens", "--out", work / "long", *LONG]
    process = start(*words)
    wait_for(lambda: lines(work / "long/metrics.jsonl") > 2, process)
    if how == signal.SIGINT:  # while at it: nobody else may write there
        thinwire(*words).refused("Another process is writing in")
    stop(process, how)
    thinwire("info", work / "long").refused("is unfinished; run the command that makes it again")
    thinwire(*words, "--seed", "9").refused("holds an unfinished run with another config")
    thinwire("prune", work / "model", "-t", TASK, *PRUNE, "--out", work / "long").refused("choose another --out")
    assert thinwire(*words).code == 0
    assert thinwire("info", work / "long").code == 0


def test_a_run_killed_at_its_first_write_goes_on(work: Path, thinwire: Thinwire) -> None:
    (work / "new").mkdir()
    for name in (".lock", ".config.json.a1b2c3.tmp"):
        (work / "new" / name).write_text("")
    assert thinwire("train", work / "tokens", "--out", work / "new", *TRAIN).code == 0


def test_too_little_memory_is_one_sentence(
    finished: Path, tmp_path: Path, thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 B")):

        def exhausted(*args: object, raised: Exception = error) -> None:
            raise raised

        monkeypatch.setattr("thinwire.train.loop.train_step", exhausted)
        ran = thinwire("train", finished / "tokens", "--out", tmp_path / "X", *TRAIN)
        assert ran.code == 1
        assert ran.err.splitlines()[-1].startswith("thinwire: There is not enough memory for this")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_data_leaves_the_old_tokens(how: signal.Signals, work: Path, thinwire: Thinwire) -> None:
    before = stamps(work / "tokens")
    process = start("data", "--out", work / "tokens", *SLOW_DATA, "--force")
    wait_for(lambda: any(path.stat().st_size for path in work.glob(".tokens.*.tmp/spool.txt")), process)
    stop(process, how)
    assert stamps(work / "tokens") == before
    if how != signal.SIGKILL:
        assert not list(work.glob(".tokens.*"))
    assert thinwire("data", "--out", work / "tokens", *DATA, "--seed", "1", "--force").code == 0
    assert not list(work.glob(".tokens.*"))


def test_interrupted_pruning(work: Path, thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["prune", work / "model", "--task", TASK, *PRUNE, "--seed", "4", "--force"]
    before = stamps(work)

    def interrupt(done: int, total: int, status: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bars, "_lines", lambda title, later: interrupt)
        ran = thinwire(*words)
    assert ran.code == 1
    assert ran.err == "thinwire: Interrupted; finished artefacts are intact, and the same command continues.\n"
    assert stamps(work) == before
    assert thinwire(*words).code == 0


def test_reader_that_leaves() -> None:
    with start("tasks", "show", TASK, "--pairs", "1000") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "pair 1\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 1

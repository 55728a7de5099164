"""Signals: held back while foreign code runs, and never mistaken for an error of that code."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from cases import case
from safetensors import SafetensorError

from thinwire.artifact import tensors
from thinwire.errors import UserError
from thinwire.interrupt import Interrupted, as_interrupt, held

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def handled() -> Iterator[None]:
    """SIGINT as in a shell's foreground: a shell has its background jobs ignore it, and so would this process."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.05)


def wrapped(number: signal.Signals, kind: Callable[[str], Exception]) -> None:
    """As code in C, which turns an exception that a signal handler raises into its own."""
    try:
        send(number)
    except KeyboardInterrupt:
        raise kind("returned a result with an exception set") from None


@pytest.mark.parametrize("number", SIGNALS)
def test_an_error_after_a_signal_is_an_interruption(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    for kind in (SystemError, RuntimeError, SafetensorError, UserError, ImportError, None):
        with case(kind), pytest.raises(KeyboardInterrupt), as_interrupt():
            wrapped(number, kind) if kind else send(number)
        assert signal.getsignal(number) is before
    with pytest.raises(SystemError), as_interrupt():
        raise SystemError


def test_an_error_that_comes_of_an_interruption_is_one() -> None:
    """Without a signal too: what a library raised in its place, and with the message that was given."""

    def library(kind: Callable[[str], Exception] | None) -> None:
        try:
            raise KeyboardInterrupt("after 3 tokens")
        except KeyboardInterrupt as error:
            if kind is None:
                raise
            raise kind("another") from error

    for kind in (RuntimeError, ImportError, UserError, None):
        with case(kind), pytest.raises(Interrupted, match="after 3 tokens"), as_interrupt():
            library(kind)


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_wait_for_the_end_of_a_block(number: signal.Signals) -> None:
    reached = []

    def block(number: signal.Signals, error: Exception | None) -> None:
        send(number)
        reached.append("end")
        if error is not None:
            raise error

    for error in (None, SystemError()):
        with case(error), pytest.raises(KeyboardInterrupt), as_interrupt(), held():
            block(number, error)
    assert reached == ["end", "end"]


class Dropping:
    def __del__(self) -> None:
        send(signal.SIGINT)


def test_an_interruption_that_is_dropped_comes_once_more() -> None:
    def block() -> None:
        Dropping()  # errors of __del__ are dropped
        time.sleep(5)
        raise AssertionError("still running")

    with pytest.raises(KeyboardInterrupt), as_interrupt():
        block()


IN_EXEC = """
import sys
from thinwire.interrupt import as_interrupt
try:
    with as_interrupt():
        exec("import os, signal; os.kill(os.getpid(), signal.SIGINT)\\nfor _ in range(10**7): pass")
except KeyboardInterrupt:
    sys.exit(1)
"""


def test_the_exit_code_is_that_of_the_program(tmp_path: Path) -> None:
    """Also where the signal comes while `exec` runs code, after which Python would end by the signal."""
    (tmp_path / "in_exec.py").write_text(IN_EXEC)
    places = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run([sys.executable, "-m", "in_exec"], env=os.environ | {"PYTHONPATH": places})
    assert done.returncode == 1


def test_a_reader_that_is_interrupted_calls_nothing_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors.write_tensors(tmp_path / "file", {"a": torch.zeros(3)})
    plain = tensors.safe_open

    def interrupted(*args: object, **named: object) -> object:
        wrapped(signal.SIGINT, SafetensorError)
        return plain(*args, **named)

    monkeypatch.setattr(tensors, "safe_open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tensors.read_tensors(tmp_path / "file", "unreadable")

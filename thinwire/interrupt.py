"""Interruption by SIGINT or SIGTERM: noted between steps, held back while foreign code runs, and never mistaken.

Code of other languages turns a KeyboardInterrupt that is raised inside it into errors of its own. So `held` keeps
signals back while such code reads, and `as_interrupt` takes any error that comes of a signal for what it is. SIGTERM is
handled as SIGINT: what is in `finally` blocks runs.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN_SECONDS = 0.1
"""Time until an interruption that was dropped comes once more."""


class Interrupted(KeyboardInterrupt):
    """An interruption that ends in the exit code of the program.

    Python itself exits by a signal once a plain KeyboardInterrupt has left code that `exec` runs, even when it is
    caught further out, as where a module that makes dataclasses is imported.
    """


class StopRequest:
    """Whether a signal has requested a stop."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def stop_on_signal(patient: bool = False) -> Iterator[StopRequest]:
    """Within the block, note the first SIGINT or SIGTERM instead of raising; outside the main thread, do nothing.

    A second signal raises KeyboardInterrupt at once, unless `patient`. A launcher needs `patient`: it passes on a
    signal that its processes have already received from the terminal, and kills those that take too long.
    """
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        if request.requested and not patient:
            raise Interrupted
        request.requested = True

    with _handling(note, ignored=True):
        yield request


@contextmanager
def as_interrupt() -> Iterator[None]:
    """Within the block, SIGINT and SIGTERM raise Interrupted, and so does any error that comes after or of one.

    An error comes of one where a KeyboardInterrupt is among its causes; its message is kept.
    """
    request = StopRequest()

    def stop(number: int, frame: FrameType | None) -> None:
        request.requested = True
        raise Interrupted

    with _handling(stop), _sent_again():
        try:
            yield
        except (Interrupted, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            stopped = _interruption(error)
            if stopped is not None or request.requested:
                raise Interrupted(*(stopped.args if stopped else ())) from error
            raise


def _interruption(error: BaseException) -> KeyboardInterrupt | None:
    """The KeyboardInterrupt that an error is or comes of; None where there is none."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KeyboardInterrupt):
        seen = seen.__cause__ or seen.__context__
    return seen


@contextmanager
def _sent_again() -> Iterator[None]:
    """Within the block, an interruption that is raised where errors are dropped, as in `__del__`, comes once more."""
    before = sys.unraisablehook

    def hook(dropped: "sys.UnraisableHookArgs") -> None:
        if isinstance(dropped.exc_value, Interrupted):
            again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGTERM))
            again.daemon = True
            again.start()
        else:
            before(dropped)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def held() -> Iterator[None]:
    """Within the block, signals wait; the first of them takes effect at its end, whether or not the block fails."""
    waiting: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        waiting.append(number)

    try:
        with _handling(keep):
            yield
    finally:
        if waiting:
            signal.raise_signal(waiting[0])


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None], ignored: bool = False) -> Iterator[None]:
    """Within the block, the signals go to `handler`; outside the main thread, do nothing.

    A signal that the process ignores, as one that a shell starts in the background does, stays so unless `ignored`.
    """
    kept = (None,) if ignored else (None, signal.SIG_IGN)  # None: not installed from Python, cannot be put back
    previous = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in (number for number in SIGNALS if signal.getsignal(number) not in kept):
                previous[number] = signal.signal(number, handler)
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)

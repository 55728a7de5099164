"""Interruption between steps: after a first SIGINT or SIGTERM the loop saves and stops; a second one stops at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: FrameType | None) -> None:
        if request.requested and not patient:
            raise KeyboardInterrupt
        request.requested = True

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

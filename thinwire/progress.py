"""Progress of long work: a callback, so that library code neither prints nor knows about terminals."""

from collections.abc import Callable

Report = Callable[[int, int, str], None]
"""Called with the units done, the units in total, and a short status such as `loss 2.31`."""


def silent(done: int, total: int, status: str) -> None:
    """The default: report nothing."""

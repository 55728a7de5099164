"""Progress of long work: a callback, so that library code neither prints nor knows about terminals."""

from collections.abc import Callable
from pathlib import Path

Report = Callable[[int, int, str], None]
"""Called with the units done, the units in total, and a short status such as `loss 2.31`."""


def silent(done: int, total: int, status: str) -> None:
    """The default: report nothing."""


class Note(str):
    """A status that is worth a line of its own, which stays when the work goes on."""


class Reused(Note):
    """The status where finished work in a folder is taken as it is."""

    folder: Path

    def __new__(cls, folder: Path) -> "Reused":
        made = super().__new__(cls, f"reused {folder}")
        made.folder = folder
        return made

"""Checks, before any work is done, that its result can be written."""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from thinwire.artifact.meta import is_finished
from thinwire.artifact.scratch import intended, scratch_path
from thinwire.errors import UserError
from thinwire.files import kind_of

NO_ROOM = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on the size of files",
}
"""What to do where a system has no room for a file, by the number of its error."""


def check_place(out: Path, option: str = "--out") -> None:
    """Raise UserError unless a folder or a file can be written at `out`; nothing is created or left behind."""
    out = Path(out).resolve()  # a link stays a link: what it points to is replaced
    try:
        out.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:  # a part of the path is a file, or too long
        raise unwritable(out, error, option) from None
    around = next(folder for folder in out.parents if folder.exists())
    if not around.is_dir():
        raise UserError(f"{around} is a file, so {out} cannot be created; choose another {option}.")
    probe = scratch_path(around / out.name)  # named as scratch folders are, longer than the result
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise unwritable(out, error, option) from None


def require_file_place(path: Path, what: str = "a file", option: str = "--out") -> None:
    """Raise UserError when there is something at `path` that a file must not replace.

    That is a folder, a device, a pipe, a socket, or a link to what a process has open, such as /dev/stdout.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # nothing, a link to nothing, or what creating it will refuse
        return
    advice = f"give the name of {what} for {option}"
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is {kind_of(os.stat(path))}; {advice}.")
    place = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    if place.startswith("/proc/") or (os.path.islink(path) and os.readlink(path).startswith("/proc/")):
        raise UserError(f"{path} is a file that a process has open; {advice}.")


def check_file_place(path: Path, what: str, option: str = "--out", read: Sequence[Path | None] = ()) -> None:
    """Raise UserError unless a file can be written at `path`, outside all artefacts.

    `what` and `option` name it to the user; `read` are files that the command reads, which it must not replace.
    """
    require_file_place(path, what, option)
    refuse_inside(path, option)
    if any(same_file(path, other) for other in read):
        raise UserError(f"{path} is a file that this command reads; choose another {option}.")
    check_place(path, option)


def refuse_inside(path: Path, option: str = "--out") -> None:
    """Raise UserError for a path inside an artefact."""
    around = next((folder for folder in Path(path).absolute().parents if is_finished(folder)), None)
    if around is not None:
        raise UserError(f"{path} lies in the artefact {around}, which may be replaced; choose another {option}.")


def same_file(path: Path | str, other: Path | str | None) -> bool:
    """Whether two paths lead to one file that exists."""
    try:
        return other is not None and os.path.samefile(path, other)
    except (OSError, ValueError):
        return False


def unwritable(path: Path | str, error: OSError, option: str = "--out", verb: str = "written") -> UserError:
    """The refusal of a path where `error` keeps a result from being written; `option` names it to the user."""
    path = intended(path)
    if error.errno == errno.ENAMETOOLONG:
        return UserError(f"{path}: this path is too long; choose a shorter {option}.")
    first = f"{NO_ROOM[error.errno]}, or " if error.errno in NO_ROOM else ""
    return UserError(f"{path} cannot be {verb} ({error.strerror}); {first}choose another {option}.")


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Within the block, a disk without room for what is written is a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise unwritable(path, error) from None
        raise

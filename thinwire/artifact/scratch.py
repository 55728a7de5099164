"""Scratch folders: where files and folders are written before they take their places in one step.

A scratch folder stands beside its target, as `.NAME.xxxxxxxx.tmp`. The process that writes there holds a lock on it,
which ends with the process. So the next writer of the target knows what a killed process left, and removes that alone.
"""

import ctypes
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

EXCHANGE = 2
"""RENAME_EXCHANGE of Linux, and RENAME_SWAP of macOS."""
AT_CWD = -100
"""AT_FDCWD: paths are relative to the current folder."""
NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)
"""What systems and file systems answer that cannot exchange two folders."""
SCRATCH = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(tmp|old)", re.DOTALL)
"""Names of scratch folders, with that of their target, and of what `_in_two_steps` moves away."""
TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


@contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """A locked scratch folder beside `target`; it is removed at the end of the block. Raises OSError."""
    sweep(target.parent, target.name)
    path, lock = _create(target)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def scratch_path(target: Path) -> Path:
    """A path for a scratch folder beside `target`, as `sweep` knows it."""
    return target.parent / f".{target.name}.{secrets.token_hex(4)}.tmp"


def intended(path: Path | str) -> Path:
    """Where a path inside a scratch folder will be when all is put in place; other paths as they are."""
    parts = [found[1] if (found := SCRATCH.fullmatch(part)) else part for part in Path(path).parts]
    return Path(*parts)


def _create(target: Path) -> tuple[Path, int | None]:
    """A new scratch folder, whose mode follows the umask, and its lock; None where folders cannot be locked."""
    while True:
        path = scratch_path(target)
        path.mkdir()
        try:
            lock = _lock(path, wait=True)
            if lock is None or os.path.samestat(os.fstat(lock), path.stat()):
                return path, lock
            os.close(lock)
        except FileNotFoundError:
            pass  # another process took it for a leftover before it was locked


def _lock(folder: Path, wait: bool = False) -> int | None:
    """A lock on a folder, which lasts until the descriptor is closed; None where it is taken or not possible."""
    if fcntl is None:
        return None
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def sweep(parent: Path, name: str | None = None) -> None:
    """Remove what killed writers left in a folder, of the target called `name` or of all.

    Where such a writer had moved the target away and not yet put the new one there, the earlier one is put back.
    """
    try:
        found = [(match, parent / entry) for entry in os.listdir(parent) if (match := SCRATCH.fullmatch(entry))]
    except OSError:
        return
    for match, path in found:
        if name not in (None, match[1]):
            continue
        with suppress(OSError):  # another process removes it, or it is no folder
            lock = _lock(path)
            if lock is None:
                continue
            try:
                target = parent / match[1]
                if match[2] == "old" and not target.exists():
                    path.rename(target)
                else:
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def put_in_place(scratch: Path, target: Path) -> None:
    """Move a folder to `target` in one step; what was there is then in the place of `scratch`, or gone.

    Where the system cannot exchange two folders there are two steps, and `sweep` puts the earlier one back if the
    process is killed between them. Raises OSError.
    """
    while True:
        try:
            os.rename(scratch, target)  # a free place, or an empty folder
            return
        except OSError as error:
            if error.errno not in TAKEN:
                raise
        try:
            if not _exchange(scratch, target):
                _in_two_steps(scratch, target)
            return
        except FileNotFoundError:
            if not scratch.exists():
                raise
            # another writer has just moved the target away


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where that is not possible."""
    if os.name != "posix":
        return False
    system = ctypes.CDLL(None, use_errno=True)
    a, b = os.fsencode(one), os.fsencode(other)
    if hasattr(system, "renameat2"):
        failed = system.renameat2(AT_CWD, a, AT_CWD, b, ctypes.c_uint(EXCHANGE))
    elif hasattr(system, "renamex_np"):
        failed = system.renamex_np(a, b, ctypes.c_uint(EXCHANGE))
    else:
        return False
    if not failed:
        return True
    code = ctypes.get_errno()
    if code in NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _in_two_steps(scratch: Path, target: Path) -> None:
    old, lock = scratch.with_suffix(".old"), _lock(target, wait=True)
    try:
        target.rename(old)
        try:
            os.rename(scratch, target)
        except BaseException:
            if not target.exists():
                old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        if lock is not None:
            os.close(lock)

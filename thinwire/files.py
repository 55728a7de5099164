"""Reading files that others may have made: regular files only, of a bounded size, and JSON by one rule.

Every reader of the package opens its files here. A pipe is never waited for and a device is never read.
"""

import errno
import json
import os
import stat
from io import BufferedReader
from pathlib import Path

LARGEST_JSON = 256 << 20
"""Bytes of the largest JSON, JSON Lines or tokenizer file that is read."""
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
OPENING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: Path | str, limit: int | None = None) -> BufferedReader:
    """A regular file, open for reading; links are followed.

    Raises OSError, whose `strerror` is the reason in a phrase, for anything else, and for more than `limit` bytes.
    """
    try:
        _refuse(os.stat(path), path, limit)  # before it is opened, which can have effects on a device
        handle = os.open(path, OPENING)
    except ValueError:
        raise OSError(errno.EINVAL, "a path cannot hold such characters", str(path)) from None
    try:
        _refuse(os.fstat(handle), path, limit)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _refuse(found: os.stat_result, path: Path | str, limit: int | None) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, f"it is {kind_of(found)}, not a regular file", str(path))
    if limit is not None and found.st_size > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit >> 20} MiB", str(path))


def kind_of(found: os.stat_result) -> str:
    """What there is other than a regular file, such as "a pipe"."""
    return KINDS.get(stat.S_IFMT(found.st_mode), "something else")


def read_bytes(path: Path | str, limit: int = LARGEST_JSON) -> bytes:
    """The bytes of a regular file. Raises OSError as `open_regular` does."""
    with open_regular(path, limit) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1)
        while len(content) > size:  # it grows, or is one of those that state no size
            if len(content) > limit:
                raise OSError(errno.EFBIG, f"it is larger than {limit >> 20} MiB", str(path))
            more = file.read(limit + 1 - len(content))
            if not more:
                break
            content += more
        return content


def repeated_key(text: str) -> str | None:
    """A key that an object in valid JSON text has twice, of which readers drop one; None where there is none."""
    found: list[str] = []

    def look(pairs: list[tuple[str, object]]) -> None:
        keys = [key for key, _ in pairs]
        found.extend(key for place, key in enumerate(keys) if key in keys[:place])

    json.JSONDecoder(object_pairs_hook=look).decode(text)
    return found[0] if found else None


def read_text(path: Path | str, limit: int = LARGEST_JSON) -> str:
    """The text of a regular file in UTF-8, without a byte order mark. Raises OSError as `open_regular` does."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise OSError(errno.EILSEQ, "it is not UTF-8 text", str(path)) from None

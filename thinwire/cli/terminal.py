"""The terminal, whatever it is: its encoding, its width, streams closed or full, and tables made safe for it."""

import codecs
import io
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from thinwire.display import escaped, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NARROWEST, WIDEST = 40, 400
"""Columns that texts and tables are laid out in at least and at most, whatever the terminal reports."""
READABLE = "thinwire.readable"
"""Name of the handler for characters that an encoding lacks."""
ASCII = str.maketrans(
    dict(zip("→←↑↓×·•…–—−‑‘’“”°━─│", "><^vx.*~----''\"\"'=-|", strict=True))
    | dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+")
    | {"≤": "<=", "≥": ">=", "≈": "~", "≠": "!=", "±": "+-", "∞": "inf"}
)
"""Characters that the command line prints, and the ASCII for them, of the same width where columns are aligned."""


def visible_table(table: "Table") -> "Table":
    """The table with the texts of its cells made safe, so that no name can forge a row; in place."""
    table.title, table.caption = _safe(table.title), _safe(table.caption, keep="\n")
    for column in table.columns:
        column.header = _safe(column.header, keep="\n")
        column._cells[:] = [_safe(cell) for cell in column._cells]
    return table


def _safe(content: Any, keep: str = "") -> Any:
    """A title or a cell made safe; renderables other than text are returned as they are."""
    from rich.text import Text

    if isinstance(content, str):
        return visible(content, keep)
    if isinstance(content, Text) and visible(content.plain, keep) != content.plain:
        return Text(visible(content.plain, keep), style=content.style)
    return content


def _readable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encode what an encoding lacks as ASCII of the same width where there is one, else as an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end].translate(ASCII)
    return "".join(c if c.isascii() else escaped(c) for c in lacking), error.end


codecs.register_error(READABLE, _readable)


class _Stdout(io.FileIO):
    """Standard output, whose errors say so."""

    def write(self, content: Any) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            return super().write(content) or 0
        except OSError as error:
            raise OSError(error.errno, error.strerror, "stdout") from None


class _Stderr(io.FileIO):
    """Standard error, whose failed writes are ignored: progress that nobody can read is no reason to stop work."""

    def write(self, content: Any) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            return super().write(content) or 0
        except OSError:
            return len(content)


def prepare_streams() -> None:
    """Make stdout and stderr take every character, and stderr every write. Raises OSError where stdout is closed."""
    closed = [number for number in (0, 1, 2) if not _is_open(number)]
    for _ in closed:  # else the next files opened would be taken for them
        os.open(os.devnull, os.O_RDWR)
    if 1 not in closed and sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _wrapped(sys.stdout, _Stdout)
    if 2 not in closed and sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _wrapped(sys.stderr, _Stderr)
    # Python sets them to None where they were closed before it started
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if 1 in closed:
        raise OSError("stdout is closed")


def _wrapped(stream: io.TextIOWrapper, kind: type[io.FileIO]) -> io.TextIOWrapper:
    """The same stream with another kind of file below, and errors of encoding made escapes."""
    raw = io.BufferedWriter(kind(stream.fileno(), "w", closefd=False))
    lines = stream.line_buffering or stream.write_through
    return io.TextIOWrapper(raw, stream.encoding, READABLE, line_buffering=lines)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def give_up_stdout() -> None:
    """Send what is left for stdout nowhere, so that the interpreter does not fail on it at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def bound_size() -> None:
    """Bound what COLUMNS and LINES say, for every library that reads them; values that are no numbers are dropped."""
    for name, least, most in (("COLUMNS", NARROWEST, WIDEST), ("LINES", 10, 1000)):
        value = os.environ.get(name)
        if value is None:
            continue
        if re.fullmatch("0*[1-9][0-9]{0,9}", value, re.ASCII):
            os.environ[name] = str(min(most, max(least, int(value))))
        else:
            del os.environ[name]


def width() -> int:
    """Columns to lay out text in."""
    return console().width


def console(stderr: bool = False) -> "Console":
    """A console on stdout or stderr that is neither too narrow nor too wide, and takes no text for markup."""
    from rich.console import Console

    bound_size()
    made = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    found = made.width
    if not NARROWEST <= found <= WIDEST:
        made.width = min(WIDEST, max(NARROWEST, found))
    return made

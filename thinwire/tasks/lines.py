"""Files in JSON Lines format: every problem is one sentence with the number of its line."""

import errno
import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from thinwire.config import explain
from thinwire.errors import UserError
from thinwire.files import read_bytes, repeated_key

M = TypeVar("M", bound=BaseModel)
MAX_BYTES = 2**24
MAX_LINE_BYTES = 2**16


def read_content(path: Path, what: str) -> bytes:
    """The bytes of a file of `what`, a plural. Raises UserError where it cannot be read or is too large."""
    remedy = f"give a JSON Lines file of {what}"
    try:
        return read_bytes(path, MAX_BYTES)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise UserError(f"{path} is larger than {MAX_BYTES >> 20} MiB; give a part of its lines.") from None
        if os.path.exists(path) and not os.path.isfile(path):
            raise UserError(f"{path} is not a file; {remedy}.") from None
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}.") from None


def parse_lines(content: bytes, path: Path, cls: type[M], form: str) -> dict[int, M]:
    """The lines of a file's content by their numbers, from 1. Blank lines are ignored.

    Raises UserError for a line that is too long, is not UTF-8, or does not fit `cls`, of which `form` is an example.
    """
    lines: dict[int, M] = {}
    unix = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for number, raw in enumerate(unix.split(b"\n"), start=1):
        where = f"Line {number} of {path}"
        if len(raw) > MAX_LINE_BYTES:
            raise UserError(f"{where} is longer than {MAX_LINE_BYTES >> 10} KiB; shorten its prompts.")
        if not raw.strip():
            continue
        try:
            text = raw.decode("utf-8")
            lines[number] = cls.model_validate_json(text)
            if (twice := repeated_key(text)) is not None:
                raise UserError(f"{where} gives the key {twice!r} twice; write {form} there.")
        except UnicodeDecodeError:
            raise UserError(f"{where} is not UTF-8 text; save the file as UTF-8.") from None
        except ValidationError as error:
            why = explain(error).replace(" at line 1 column", " at column")
            raise UserError(f"{where}: {why[:200]}; write {form} there.") from None
    return lines

"""Kinds of file that the room writes: the suffix of a name decides, and no other is taken."""

from collections.abc import Sequence
from pathlib import Path

from thinwire.errors import UserError

PAGES = (".html",)
PICTURES = (".svg", ".png", ".pdf")


def suffix_of(path: Path, allowed: Sequence[str] = PICTURES) -> str:
    """The suffix of a file's name in lower case. Raises UserError where it is none of the allowed ones."""
    suffix = path.suffix.lower()
    if suffix not in allowed:
        ends = allowed[0] if len(allowed) == 1 else f"{', '.join(allowed[:-1])} or {allowed[-1]}"
        raise UserError(f"The suffix of {path} names no format that is written here; end its name in {ends}.")
    return suffix

"""How records show themselves, as one short line or as a picture in a notebook, and how text is made safe to show.

`thinwire.view.notebook` draws the latter; it is loaded when a notebook first asks for it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import fields
from importlib import import_module
from typing import Any, TypeVar

MOST = 300
"""Characters of a record's line; fields that find no room are left out, and an ellipsis says so."""
SHORT = 60
"""Characters of one value in it."""
FEW = 6
"""Of many texts, those that are shown."""
IGNORABLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")
"""Characters that count as printable and show nothing."""
T = TypeVar("T", bound=type)


def one_line(cls: T) -> T:
    """Decorator of a dataclass: its repr is one short line, with sizes in place of long values."""

    def __repr__(self: Any) -> str:
        return line(type(self).__name__, ((f.name, getattr(self, f.name)) for f in fields(self)))

    type.__setattr__(cls, "__repr__", __repr__)
    return cls


def line(name: str, values: Iterable[tuple[str, object]]) -> str:
    """`Name(field=value, …)` in at most MOST characters."""
    text = f"{name}("
    for field, value in values:
        part = f"{'' if text.endswith('(') else ', '}{field}={brief(value)}"
        if len(text) + len(part) > MOST - 4:
            return f"{text}, …)"
        text += part
    return f"{text})"


def brief(value: object) -> str:
    """A value in at most about SHORT characters: the type and shape of arrays, the length of long collections."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        return f"{str(dtype).removeprefix('torch.')} {list(shape)}"
    if isinstance(value, str | bytes):
        return repr(value) if len(value) <= SHORT else f"{value[: SHORT - 10]!r}…"
    if isinstance(value, Mapping):
        return "{}" if not value else f"{{{len(value)} entries}}"
    if isinstance(value, tuple | list | Set):
        # the few that are short are shown; of many not even one is formatted
        text = repr(value) if len(value) <= 8 else ""
        return text if text and len(text) <= SHORT else f"({len(value)} items)"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = repr(value)
    return text if len(text) <= SHORT else f"{type(value).__name__}(…)"


def plural(amount: int, noun: str) -> str:
    """`1 node`, `2,000 nodes`."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def named(texts: Sequence[str]) -> str:
    """The first few of many texts."""
    return ", ".join([*texts[:FEW], *(["…"] if len(texts) > FEW else [])])


def visible(text: str, keep: str = "") -> str:
    """Text from outside made safe to show: every character that acts, hides or reorders becomes an escape.

    Those are control characters but `keep`, line breaks of every kind, marks of writing direction, characters without
    a width, and unpaired surrogates.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or (c.isprintable() and not IGNORABLE.match(c)) else escaped(c) for c in text)


def escaped(character: str) -> str:
    """A character as an escape in ASCII."""
    return character.encode("unicode_escape").decode()


class Shown:
    """Base of what a notebook shows as a picture or a table."""

    def _repr_html_(self) -> str:
        """HTML without scripts, in the notebook's own colours."""
        return import_module("thinwire.view.notebook").html(self)

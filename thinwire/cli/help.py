"""The help of a verb, laid out for the terminal: usage, main options, titled groups of others, examples."""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from thinwire.cli.examples import EXAMPLES, GROUPS, MAIN, MORE
from thinwire.cli.terminal import width
from thinwire.config import Config

COLUMN = 26
"""Column at which the texts of options begin, where the terminal is wide enough."""
WIDE_ENOUGH = 70
WIDEST_TEXT = 120
"""Longer lines are hard to read."""
WORDS = {"device": "DEVICE", "ray": "ADDRESS", "prompt": "TEXT", "out": "PATH"}
FILES = ("config", "task_file", "prompt_file", "rates", "plot")
"""Options of a path to a file rather than to a folder."""


KEPT, UNBROKEN = "\u00a0", 24
"""A space at which no line breaks, and the longest note that gets such spaces."""
LONG_CHOICES = 48
"""Choices that take more columns than this are listed in the text."""


@dataclass(frozen=True)
class Option:
    """An option, or a positional argument, as the help shows it."""

    name: str
    """Without dashes, such as `model.d-head`."""
    aliases: tuple[str, ...]
    value: str
    """What its value is; empty for a switch."""
    text: str
    default: str = ""
    required: bool = False
    positional: bool = False
    either: bool = False
    """Whether it is a switch that is on, so that `--no-` matters."""

    @property
    def usage(self) -> str:
        """How it is written."""
        if self.positional:
            return self.value
        stem, _, last = self.name.rpartition(".")
        prefix = f"{stem}." if stem else ""
        flag = f"--{prefix}[no-]{last}" if self.either else f"--{self.name}"
        return " ".join(filter(None, (", ".join((*self.aliases, flag)), self.value)))

    @property
    def sentence(self) -> str:
        """What it does, and its default."""
        note = "(required)" if self.required and not self.positional else ""
        if self.default:
            note = f"(default: {self.default})"
            note = note.replace(" ", KEPT) if len(note) <= UNBROKEN else note
        return " ".join(filter(None, (self.text, note)))


def write_help(cls: type, verb: str, default: object | None) -> None:
    """Print the help of a verb whose arguments are `cls`."""
    sys.stdout.write(help_text(cls, verb, default, min(width(), WIDEST_TEXT)))


def help_text(cls: type, verb: str, default: object | None, columns: int) -> str:
    """The help of a verb in so many columns."""
    found = [*options(cls, default), *(Option(name, (), value, text) for name, value, text in MORE.get(verb, ()))]
    positional = [option for option in found if option.positional]
    needed = [f"--{option.name} {option.value}" for option in found if option.required and not option.positional]
    words = " ".join([verb, *(option.value for option in positional), *needed])
    parts = [f"usage: thinwire {words} [OPTIONS]\n", *_paragraphs(inspect.getdoc(cls) or "", columns)]
    if positional:
        parts.append("".join(_entry(option, columns) for option in positional))
    for title, members in grouped(verb, [option for option in found if not option.positional]):
        entries = "".join(_entry(option, columns) for option in members)
        parts.append(f"{title}:\n{entries}")
    examples = "".join(f"  {example}\n" for example in EXAMPLES.get(verb, ()))
    parts.append(f"Examples:\n{examples}" if examples else "")
    return "\n".join(filter(None, parts))


def grouped(verb: str, found: Sequence[Option]) -> list[tuple[str, list[Option]]]:
    """The options under their titles: first the main ones, in the order in which the verb lists them."""
    groups = GROUPS.get(verb, {})
    if not groups:
        return [("Options", list(found))]
    title_of = {name: title for title, names in groups.items() for name in names}
    rank = {name: place for place, name in enumerate(MAIN.get(verb, ()))}
    placed: dict[str, list[Option]] = {title: [] for title in ("Main options", *groups, "Other options")}
    for option in found:
        title = title_of.get(option.name) or title_of.get(f"{option.name.partition('.')[0]}.*")
        placed["Main options" if option.name in rank else title or "Other options"].append(option)
    placed["Main options"].sort(key=lambda option: rank[option.name])
    return [(title, members) for title, members in placed.items() if members]


def _paragraphs(text: str, columns: int) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield textwrap.fill(" ".join(paragraph.split()), columns, break_on_hyphens=False) + "\n"


def _entry(option: Option, columns: int) -> str:
    """An option: what is written in the left column, or on a line of its own, and what it does in the right."""
    column = COLUMN if columns >= WIDE_ENOUGH else 6
    usage = textwrap.wrap(f"  {option.usage}", columns, subsequent_indent=" " * 6, break_on_hyphens=False)
    lines = textwrap.wrap(re.sub("[ \n]+", " ", option.sentence), columns - column, break_on_hyphens=False)
    if len(usage) == 1 and len(usage[0]) <= column - 2 and lines:
        usage, lines = [f"{usage[0]:<{column}}{lines[0]}"], lines[1:]
    return "".join(f"{line}\n".replace(KEPT, " ") for line in [*usage, *(" " * column + line for line in lines)])


def options(cls: type, default: object | None = None, prefix: str = "") -> Iterator[Option]:
    """The options that the parser makes of a dataclass of arguments, or of a config, in its order."""
    hints = get_type_hints(cls, include_extras=True)
    nested: list[Iterator[Option]] = []
    for name, text, own in _fields_of(cls):
        kind, marks = _unwrapped(hints[name])
        value = own if default is None else getattr(default, name)
        renamed = next((mark.name for mark in marks if getattr(mark, "name", None) is not None), name)
        if _has_fields(kind):
            below = f"{prefix}{renamed}." if renamed else prefix
            nested.append(options(kind, None if value is tyro.MISSING else value, below))
            continue
        yield _option(f"{prefix}{renamed}", kind, marks, value, text)
    for inner in nested:
        yield from inner


def _option(name: str, kind: Any, marks: tuple[Any, ...], value: object, text: str) -> Option:
    last = name.rpartition(".")[2]
    positional = tyro.conf.Positional in marks
    choices = _choices(kind)
    if len(choices) > LONG_CHOICES:
        text += f" Any of {choices.replace('|', ', ')}."
    metavar = next((mark.metavar for mark in marks if getattr(mark, "metavar", None)), None)
    required = value is tyro.MISSING or value is MISSING
    shown = metavar or (
        f"{last.upper()}{'...' if get_origin(kind) is tuple else ''}" if positional else _value(last, kind)
    )
    if positional and not required and not metavar:
        shown = f"[{shown}]"
    return Option(
        name=name.replace("_", "-"),
        aliases=next((tuple(mark.aliases) for mark in marks if getattr(mark, "aliases", None)), ()),
        value=shown,
        text=text,
        default="" if required else _default(value),
        required=required,
        positional=positional,
        either=value is True,
    )


def _unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without its annotations and without None, and the annotations."""
    marks: tuple[Any, ...] = ()
    while get_origin(hint) is Annotated:
        marks, hint = (*marks, *hint.__metadata__), get_args(hint)[0]
    if get_origin(hint) in (Union, UnionType):
        inner = [part for part in get_args(hint) if part is not NoneType]
        if len(inner) == 1:
            return inner[0], marks
    return hint, marks


def _has_fields(kind: Any) -> bool:
    return isinstance(kind, type) and (issubclass(kind, Config) or is_dataclass(kind))


def _fields_of(cls: type) -> Iterator[tuple[str, str, object]]:
    """Name, text and default of every field; MISSING where it has none."""
    if issubclass(cls, Config):
        for name, info in cls.model_fields.items():
            yield name, info.description or "", tyro.MISSING if info.is_required() else info.get_default()
        return
    texts = _texts(cls)
    for one in fields(cls):  # pyright: ignore[reportArgumentType]
        own = one.default if one.default_factory is MISSING else one.default_factory()
        yield one.name, texts.get(one.name, ""), own


@cache
def _texts(cls: type) -> dict[str, str]:
    """The docstring under every field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # pyright: ignore
    return {
        field.target.id: str(text.value.value)
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _choices(kind: Any) -> str:
    """The values of an option, or of its items, that has only a few."""
    while get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    return "|".join(map(str, get_args(kind))) if get_origin(kind) is Literal else ""


def _value(name: str, kind: Any) -> str:
    """What the value of an option is."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        return f"{_value(name, _unwrapped(inner[0])[0])} ..."
    if origin is dict:
        return "NAME VALUE ..."
    if origin is Literal:
        choices = _choices(kind)
        return choices if len(choices) <= LONG_CHOICES else "NAME"
    if kind is Path:
        return "FILE" if name in FILES else "PATH"
    return {bool: "", int: "N", float: "X"}.get(kind, WORDS.get(name, "NAME"))


def _default(value: object) -> str:
    """A default as one would write it; empty where it says nothing."""
    if value is None or value is False or value == "" or isinstance(value, dict):
        return ""
    if value is True:
        return "on"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)

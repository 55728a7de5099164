"""Shared by the verbs: parsing, and results on stdout."""

import io
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

import tyro
from pydantic import ValidationError
from rich.table import Table

from thinwire.artifact.place import same_file
from thinwire.cli.bars import progress
from thinwire.cli.terminal import console, visible_table
from thinwire.config import Config, explain
from thinwire.display import visible
from thinwire.errors import UserError

__all__ = [
    "chosen_config",
    "command",
    "emit",
    "number",
    "parse",
    "plain",
    "progress",
    "size",
    "take_option",
]

T = TypeVar("T")
C = TypeVar("C", bound=Config)
HELP_INDENT = 8
"""Columns by which the parser indents an option's help below an error."""
PARSER_COLUMNS = 2000
"""Width of the box in which the parser writes what is wrong, so that it breaks no word; it is never shown."""
COLOURS = re.compile("\x1b\\[[0-9;]*m")
"""What the parser puts round words when stdout is a terminal."""
MOST_FOLDERS = 200
"""Largest number of names in a path: the system's tools fail on much deeper ones, in many ways."""


def parse(cls: type[T], argv: Sequence[str], verb: str, default: T | None = None) -> T:
    """Arguments of a verb as an instance of `cls`; its docstring and field docstrings are the help.

    Raises UserError for arguments that do not fit, and SystemExit after `--help`.
    """
    prog = f"thinwire {verb}"
    if any(word in ("-h", "--help") for word in argv):
        from thinwire.cli.help import write_help

        write_help(cls, verb, default)
        raise SystemExit(0)
    printed = io.StringIO()
    try:
        with redirect_stderr(printed), _columns(PARSER_COLUMNS):
            given = tyro.MISSING_NONPROP if default is None else default
            args = at_home(tyro.cli(cls, args=list(argv), prog=prog, default=given, add_help=False))
    except ValidationError as error:
        raise UserError(f"{error.title}: {explain(error)}.") from None
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(f"{_complaint(stop, printed.getvalue())}; see {prog} --help.") from None
    check_values(args)
    return args


@contextmanager
def _columns(count: int) -> Iterator[None]:
    """Within the block, the environment says that the terminal has so many columns."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(count)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def check_values(value: object, name: str = "") -> None:
    """Raise UserError for numbers beyond 64 bits and paths of too many folders, anywhere in parsed arguments."""
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UserError(f"{option} is a number of {len(f'{value:x}') * 4} bits; give one below 2^63.")
    if isinstance(value, Path) and len(value.parts) > MOST_FOLDERS:
        raise UserError(f"{option} is a path of {len(value.parts)} names; choose a shorter one.")
    if isinstance(value, tuple | list):
        for item in value:
            check_values(item, name)
    if isinstance(value, Config):
        for inner in type(value).model_fields:
            check_values(getattr(value, inner), inner)
    elif is_dataclass(value):
        for inner in fields(value):
            check_values(getattr(value, inner.name), inner.name)


def at_home(value: T) -> T:
    """Arguments whose paths begin at the user's folder where they begin with `~`, as shells leave in `--out=~/runs`."""
    if isinstance(value, Path):
        return cast(T, Path(os.path.expanduser(value)))
    if isinstance(value, tuple):
        return cast(T, tuple(map(at_home, value)))
    if isinstance(value, Config):
        changed = {name: at_home(getattr(value, name)) for name in type(value).model_fields}
        return value if changed == dict(value) else cast(T, value.replace(**changed))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: at_home(getattr(value, field.name)) for field in fields(value)})
    return value


def _complaint(stop: SystemExit, box: str) -> str:
    """Why parsing stopped, in a phrase: the config's own reason, or the first paragraph in the parser's box."""
    cause: BaseException | None = stop
    while cause is not None:
        if isinstance(cause, ValidationError):
            return f"{cause.title}: {explain(cause)}"
        cause = cause.__context__
    box = COLOURS.sub("", box)
    lines = [line.strip("│╭╮╰╯")[1:] for line in box.splitlines()[1:]]
    rule = next((number for number, line in enumerate(lines) if line.strip().startswith("──")), len(lines))
    lines = [line for line in lines[:rule] if not line.startswith(" " * HELP_INDENT)]
    suggested = re.search(r"Perhaps you meant:\W*(--[\w.-]+)", box)
    reason = " ".join(" ".join(lines).split()).rstrip(".").replace(". Expected", ", expected").replace("{None}|", "")
    if long := re.search(r"Error parsing (\S+): Exceeds the limit .* (\d+) digits", reason):
        return f"{long[1]} is a number of {int(long[2]):,} digits; give one below 2^63"
    return reason + (f" (perhaps you meant {suggested[1]})" if suggested else "")


def chosen_config(cls: type[C], argv: Sequence[str], default: C) -> tuple[C, list[str]]:
    """The config of a `--config FILE` among the arguments, or the default; and the arguments without it."""
    rest = list(argv)
    path = take_option(rest, "--config")
    if path is None:
        return default, rest
    file = at_home(Path(path))
    if any(same_file(word.partition("=")[2] if word.startswith("--") else word, file) for word in rest):
        raise UserError(f"{path} is given for --config and once more; name another file.")
    return cls.load(file), rest


def take_option(argv: list[str], name: str) -> str | None:
    """Remove `name VALUE` or `name=VALUE` from argv and return the value; None when it is absent."""
    for index, word in enumerate(argv):
        if word == name:
            if index + 1 == len(argv):
                raise UserError(f"{name} needs a value.")
            del argv[index]
            return argv.pop(index)
        if word.startswith(f"{name}="):
            return argv.pop(index).partition("=")[2]
    return None


def emit(values: Mapping[str, object], as_json: bool, text: str | Table | None = None) -> None:
    """Print the result on stdout: one JSON object, or a text or table (by default one line per value).

    Everything printed is made safe for a terminal here; only a text keeps its line breaks.
    """
    if as_json:
        sys.stdout.write(json.dumps(_strict(values)) + "\n")
        return
    if isinstance(text, Table):
        console().print(visible_table(text))
        return
    sys.stdout.write(visible(text if text is not None else plain(values), keep="\n") + "\n")


def _strict(value: object) -> object:
    """The same values with null for numbers that are not finite, which JSON cannot write."""
    if isinstance(value, Mapping):
        return {name: _strict(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain(values: Mapping[str, object]) -> str:
    """One line per value, names aligned."""
    names = {name: visible(name) for name in values}
    width = max(map(len, names.values()), default=0)
    return "\n".join(f"{names[name]:<{width}}  {visible(number(value))}" for name, value in values.items())


def number(value: object) -> str:
    """A value as readers expect it: thousands separated, four significant digits or all before the point."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {number(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:,}"


def command(*words: object) -> str:
    """A command to run next, as one would type it."""
    return f"  thinwire {visible(shlex.join(map(str, words)))}"


def size(count: int) -> str:
    """A number of bytes for reading: `812 bytes`, `25.3 KiB`, `5.60 MiB`."""
    if count < 1024:
        return f"{count:,} bytes"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1000 or unit == "TiB":
            break
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"

"""Shared by the verbs: parsing, progress on stderr, results on stdout."""

import io
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import tyro
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from thinwire.config import Config, explain
from thinwire.errors import UserError
from thinwire.progress import Report

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
C = TypeVar("C", bound=Config)
SECONDS_BETWEEN_LINES = 15
"""Seconds between two lines of progress where stderr is not a terminal."""
HELP_INDENT = 8
"""Columns by which the parser indents an option's help below an error."""


def parse(cls: type[T], argv: Sequence[str], verb: str, default: T | None = None) -> T:
    """Arguments of a verb as an instance of `cls`; its docstring and field docstrings are the help.

    Raises UserError for arguments that do not fit, and SystemExit after `--help`.
    """
    prog = f"thinwire {verb}"
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            if default is None:
                return at_home(tyro.cli(cls, args=list(argv), prog=prog))
            return at_home(tyro.cli(cls, args=list(argv), prog=prog, default=default))
    except ValidationError as error:
        raise UserError(f"{error.title}: {explain(error)}.") from None
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(f"{_complaint(stop, printed.getvalue())}; see {prog} --help.") from None


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
    lines = [line.strip("│╭╮╰╯")[1:] for line in box.splitlines()[1:]]
    rule = next((number for number, line in enumerate(lines) if line.strip().startswith("──")), len(lines))
    lines = [line for line in lines[:rule] if not line.startswith(" " * HELP_INDENT)]
    suggested = re.search(r"Perhaps you meant:\W*(--[\w.-]+)", box)
    reason = " ".join(" ".join(lines).split()).rstrip(".").replace(". Expected", ", expected")
    return reason + (f" (perhaps you meant {suggested[1]})" if suggested else "")


def chosen_config(cls: type[C], argv: Sequence[str], default: C) -> tuple[C, list[str]]:
    """The config of a `--config FILE` among the arguments, or the default; and the arguments without it."""
    rest = list(argv)
    path = take_option(rest, "--config")
    return (cls.load(at_home(Path(path))) if path else default), rest


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


@contextmanager
def progress(title: str) -> Iterator[Report]:
    """A progress bar with the time left on stderr; a line every few seconds where stderr is not a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(title)
        return
    with bars(console) as bar:
        task = bar.add_task(visible(title), total=None, status="")

        def report(done: int, total: int, status: str) -> None:
            bar.update(task, completed=done, total=total, status=visible(status))

        yield report
        total = bar.tasks[0].total or 1
        bar.update(task, completed=total, total=total)


def bars(console: Console) -> "Progress":
    """Progress bars, each with the field `status`."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<22}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[status]}", markup=False),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    return Progress(*columns, console=console, expand=True)


def _lines(title: str) -> Report:
    began = written_at = time.monotonic()

    def report(done: int, total: int, status: str) -> None:
        nonlocal written_at
        now = time.monotonic()
        if now - written_at < SECONDS_BETWEEN_LINES and done < total:
            return
        written_at = now
        left = f", {(now - began) * (total - done) / max(done, 1):.0f} s left" if done < total else ""
        sys.stderr.write(f"{visible(title)}: {done}/{total}, {visible(status)}{left}\n")
        sys.stderr.flush()

    return report


def emit(values: Mapping[str, object], as_json: bool, text: str | Table | None = None) -> None:
    """Print the result on stdout: one JSON object, or a text or table (by default one line per value)."""
    if as_json:
        sys.stdout.write(json.dumps(_strict(values)) + "\n")
        return
    if isinstance(text, Table):
        Console(markup=False, highlight=False).print(text)
        return
    sys.stdout.write(visible(text if text is not None else plain(values), keep="\n") + "\n")


def _strict(value: object) -> object:
    """The same values with null for numbers that are not finite, which JSON cannot write."""
    if isinstance(value, Mapping):
        return {name: _strict(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def visible(text: str, keep: str = "") -> str:
    """Text from outside made safe for a terminal: control characters and unpaired surrogates become escapes."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def plain(values: Mapping[str, object]) -> str:
    """One line per value, names aligned."""
    width = max(map(len, values))
    return "\n".join(f"{name:<{width}}  {visible(number(value))}" for name, value in values.items())


def number(value: object) -> str:
    """A value as readers expect it: thousands separated, four significant digits or all before the point."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:,}"

"""What the verbs share: parsing, progress on stderr, results on stdout."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import tyro
from rich.console import Console
from rich.table import Table

from thinwire.config import Config
from thinwire.errors import UserError
from thinwire.progress import Report

T = TypeVar("T")
C = TypeVar("C", bound=Config)
SECONDS_BETWEEN_LINES = 15
"""Where stderr is not a terminal, progress is a line this often."""


def parse(cls: type[T], argv: Sequence[str], verb: str, default: T | None = None) -> T:
    """Arguments of a verb as an instance of `cls`; its docstring and field docstrings are the help."""
    prog = f"thinwire {verb}"
    if default is None:
        return tyro.cli(cls, args=list(argv), prog=prog)
    return tyro.cli(cls, args=list(argv), prog=prog, default=default)


def chosen_config(cls: type[C], argv: Sequence[str], default: C) -> tuple[C, list[str]]:
    """The config of a `--config FILE` among the arguments, or the default; and the arguments without it."""
    rest = list(argv)
    path = take_option(rest, "--config")
    return (cls.load(Path(path)) if path else default), rest


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
    """A progress bar with the time left on stderr; plain lines now and then where stderr is not a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(title)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, expand=True) as bar:
        task = bar.add_task(title, total=None, status="")

        def report(done: int, total: int, status: str) -> None:
            bar.update(task, completed=done, total=total, status=status)

        yield report
        total = bar.tasks[0].total or 1
        bar.update(task, completed=total, total=total)


def _lines(title: str) -> Report:
    began = said = time.monotonic()

    def report(done: int, total: int, status: str) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said < SECONDS_BETWEEN_LINES and done < total:
            return
        said = now
        left = (now - began) * (total - done) / max(done, 1)
        sys.stderr.write(f"{title}: {done}/{total}, {status}, {left:.0f} s left\n")
        sys.stderr.flush()

    return report


def emit(values: Mapping[str, object], as_json: bool, text: str | Table | None = None) -> None:
    """The result on stdout: one JSON object, or a text or table (by default a line a value)."""
    if as_json:
        sys.stdout.write(json.dumps(values) + "\n")
        return
    if isinstance(text, Table):
        Console(markup=False, highlight=False).print(text)
        return
    sys.stdout.write((text if text is not None else plain(values)) + "\n")


def plain(values: Mapping[str, object]) -> str:
    """A line a value, names aligned."""
    width = max(map(len, values))
    return "\n".join(f"{name:<{width}}  {number(value)}" for name, value in values.items())


def number(value: object) -> str:
    """A value for reading: thousands separated, four significant digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"

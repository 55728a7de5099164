"""Sentences below a table, wrapped to the width of the terminal as the table is."""

import textwrap
from collections.abc import Iterable

from thinwire.cli.terminal import width
from thinwire.display import visible


def wrapped(lines: Iterable[str]) -> str:
    """The lines that are not empty, each wrapped to the terminal, further ones indented."""
    columns = width()
    return "\n".join(
        textwrap.fill(visible(line), columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for line in lines
        if line
    )

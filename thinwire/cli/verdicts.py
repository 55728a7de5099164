"""A verdict for reading: a table of its checks, how to read the weakest, and the whole of it in two lines."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from thinwire.cli.terminal import width
from thinwire.display import visible

if TYPE_CHECKING:
    from thinwire.circuit import Circuit
    from thinwire.verify import Measurement, Verdict

STYLES = {"fail": "bold red", "warn": "yellow", "pass": "green", "info": "dim"}
NARROW_CHECK = 14
"""Columns that the title of a check has at least, wide enough for the longest word of one."""
ALL = ("value", "95 % interval", "passes", "pairs")
NUMBERS = {76: ALL, 48: ("value", "passes"), 0: ("value",)}
"""Columns of numbers, by the least width of a terminal in which they find room."""
NO_VERDICT = "no verdict on it here; thinwire verify makes one"


def table(verdict: "Verdict", every: bool = False) -> Table:
    """The verdict in the terminal's width: a row for the measurement that decides each check, or for every one."""
    from thinwire.verify.claims import deciding

    target = "" if verdict.target_loss is None else f", target loss {verdict.target_loss:g}"
    title = f"{visible(verdict.task)}: {verdict.sizes}{target}; losses in nats"
    slim = {"box": SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True, "show_edge": False}
    grid = Table(title=title, title_justify="left", title_style="bold", **slim)
    grid.add_column("", overflow="fold")
    grid.add_column("check", min_width=NARROW_CHECK)
    grid.add_column("measured", min_width=8)
    numbers = next(names for least, names in NUMBERS.items() if width() >= least)
    for name in numbers:
        grid.add_column(name, justify="right", overflow="fold")  # a number that is cut short is another number
    shown: set[str] = set()
    for one in verdict.measurements if every else deciding(verdict):
        status = Text("" if one.status == "info" else one.status, style=STYLES[one.status])
        limit = "" if one.threshold is None else str(one.threshold)
        title = "" if one.title in shown else one.title
        cells = dict(zip(ALL, (valued(one), interval(one), limit, f"{one.n:,}"), strict=True))
        grid.add_row(status, title, one.quantity, *(cells[name] for name in numbers))
        shown.add(one.title)
    return grid


def valued(one: "Measurement") -> str:
    """A value for a table that says that losses are in nats."""
    return one.number if one.unit in ("nats", "fraction") else f"{one.number} {one.unit}"


def interval(one: "Measurement") -> str:
    """The ends of the interval, the larger they are the fewer decimals: `0.031 … 0.041`, `12.7 … 13.4`."""
    if one.interval is None:
        return ""
    ends = (one.interval.low, one.interval.high)
    if one.unit not in ("nats", "fraction"):
        return " … ".join(f"{end:.3g}" for end in ends)
    size = max(map(abs, ends))
    decimals = 3 if one.unit == "fraction" or size < 1 else 2 if size < 10 else 1
    return " … ".join(f"{end:.{decimals}f}" for end in ends)


def meanings(verdict: "Verdict") -> list[str]:
    """What the checks do that are missed by most, a paragraph each."""
    from thinwire.verify.claims import weakest

    about = {one.check: one.meaning for one in reversed(verdict.measurements)}  # the first one's tells what is done
    return [f"{one.title}: {about[one.check]}" for one in weakest(verdict) if one.status != "pass"]


def in_brief(verdict: "Verdict") -> dict[str, object]:
    """The word of a verdict, and its weakest measurement in words; None where no check has a threshold."""
    from thinwire.verify.claims import said, weakest, word_of

    worst = weakest(verdict, 1)
    return {"word": word_of(verdict).word, "weakest": said(worst[0]) if worst else None}


def share_of(verdict: "Verdict") -> "Measurement | None":
    """The share of the whole model's log-odds that the circuit has by itself, where it is measured."""
    return verdict.headlines.get("share")


def lines_on(circuit: "Circuit") -> list[str]:
    """What the finished verdict on a stored circuit says, in the workspace of the circuit; or that there is none."""
    verdict = verdict_beside(circuit)
    if verdict is None:
        return [f"verdict: {NO_VERDICT}"]
    found, share = in_brief(verdict), share_of(verdict)
    told = [f"verdict: {found['word']}"]
    told += [] if share is None else [f"share of the model's log-odds: {share.number}"]
    return told + ([] if found["weakest"] is None else [f"weakest: {found['weakest']}"])


def verdict_beside(circuit: "Circuit") -> "Verdict | None":
    """The finished verdict on exactly this stored circuit, where its workspace has one."""
    from thinwire.stages import Workspace
    from thinwire.verify import finished_verdict

    assert circuit.artifact is not None
    work = Workspace(Path(circuit.artifact.path).absolute().parent.parent)
    return finished_verdict(circuit, work.verdict_on(circuit))

"""The scores of a model on tasks, one task in a row, and which tasks the model cannot do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from thinwire.cli.lines import wrapped
from thinwire.display import visible

if TYPE_CHECKING:
    from thinwire.tasks import Score
    from thinwire.verify.measurement import Interval

MARK = "*"
"""Follows an accuracy that is not above chance."""
INEXPRESSIBLE = "–: the model's tokenizer cannot express the task."
LEGEND = f"Loss in nats, 0.69 is guessing. {MARK}: not above chance, the accuracy's 95 % interval reaches one half."


@dataclass(frozen=True)
class Row:
    """The score of a model on a split of a task."""

    task: str
    split: str
    score: "Score | None"
    """None where the tokenizer cannot express the task."""

    @property
    def interval(self) -> "Interval | None":
        """95 % interval of the accuracy: Wilson's, with pairs as trials, since the sides of a pair go together."""
        from thinwire.verify.intervals import wilson

        if self.score is None:
            return None
        return wilson(self.score.accuracy, self.score.use.used)

    @property
    def above_chance(self) -> bool | None:
        """Whether the interval lies above one half."""
        return None if self.interval is None else self.interval.above_chance

    def as_json(self) -> dict[str, object]:
        """The row as flat values; null where there is no score."""
        score, interval = self.score, self.interval
        named: dict[str, object] = {
            "task": self.task,
            "split": self.split,
            "loss": score and score.loss,
            "accuracy": score and score.accuracy,
            "low": interval and interval.low,
            "high": interval and interval.high,
            "above_chance": self.above_chance,
        }
        if score is None:
            return named
        use = score.use
        counts = {"pairs": use.used, "ties": score.ties, "passed_over": sum(use.passed_over.values())}
        return named | counts | {"of_pairs": use.held, "passed_over_why": use.passed_over}


def score_table(rows: Sequence[Row]) -> Table:
    """One task in a row, with loss and accuracy for each split; fits into 80 columns."""
    by_task = _by_task(rows)
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    grid.add_column("\ntask", overflow="fold")
    for split in dict.fromkeys(row.split for row in rows):
        grid.add_column(f"{split}  \nloss accuracy ", justify="right", no_wrap=True)
    for task, found in by_task.items():
        grid.add_row(visible(task), *map(_cell, found))
    return grid


def _by_task(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.task, []).append(row)
    return found


def _cell(row: Row) -> str:
    if row.score is None:
        return "–       – "
    return f"{row.score.loss:.3f}   {row.score.accuracy:.3f}{' ' if row.above_chance else MARK}"


def remarks(rows: Sequence[Row]) -> str:
    """What the table leaves out: tasks that the model cannot do, pairs passed over, ties."""
    from thinwire.tasks import use_sentence

    by_task = _by_task(rows)
    scored = {task: [row.score for row in found if row.score] for task, found in by_task.items()}
    failed = [task for task, found in by_task.items() if found[-1].above_chance is False]
    known = sum(bool(found) for found in scored.values())
    lines = [LEGEND, "" if all(row.score for row in rows) else INEXPRESSIBLE]
    lines += [f"{known - len(failed)} of {known} tasks are done above chance on {rows[-1].split} pairs."]
    if failed:
        lines.append(f"At or below chance: {', '.join(failed)}.")
    for task, found in scored.items():
        lines.append(use_sentence(task, [score.use for score in found]))
        ties = sum(score.ties for score in found)
        if ties:
            lines.append(f"{task}: {ties:,} prompts have two equally likely answers, which count as wrong.")
    return wrapped(lines)

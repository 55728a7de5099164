"""Finds tasks by name: registered tasks, a user's own task, and the controls of both."""

import re
from collections.abc import Sequence
from dataclasses import replace

from thinwire.tasks.controls import CONTROLS
from thinwire.tasks.task import TASKS, Task

NONSENSE = re.compile(r"(nonsense)[0-9]{1,4}")
"""The name of a numbered nonsense control."""


def find_task(name: str, own: Task | None = None) -> Task:
    """The task with a name: a registered one, `own` (such as one from a file), or `NAME.CONTROL` of either.

    Raises UserError with similar names for an unknown one.
    """
    known = {task: TASKS[task] for task in TASKS} | ({own.name: own} if own is not None else {})
    if name in known:
        return known[name]
    base, _, kind = name.rpartition(".")
    if base not in known:
        raise TASKS.unknown(name, known)
    numbered = NONSENSE.fullmatch(kind)
    control = CONTROLS[numbered[1] if numbered else kind](name)
    found = known[base]
    return replace(found, name=name, summary=f"{found.summary}; {control.summary}", control=control)


def find_tasks(names: Sequence[str], own: Task | None = None) -> list[Task]:
    """The tasks with some names; without names `own`, or all registered tasks if there is none."""
    return [find_task(name, own) for name in (names or ([own.name] if own is not None else TASKS))]

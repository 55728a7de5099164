"""Reuse what is finished, or make it: the rule by which every stage, run again, does only what is left to do.

A finished artefact is reused when it is whole and fits the request: the same config, and sources and parents of the
same content, whatever their paths. Reuse is always reported, as `Reused`. One that is whole and does not fit is never
replaced unless that is asked for; a damaged one is made again. What a killed run left beside the folder is removed.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from thinwire.artifact.meta import Artifact, is_finished
from thinwire.artifact.place import check_place
from thinwire.artifact.scratch import sweep
from thinwire.config import Config
from thinwire.errors import UserError
from thinwire.progress import Report, Reused, silent

T = TypeVar("T")
Differ = Callable[[T], list[str]]
"""Names of what is different in a finished artefact from what is wanted, such as `seed` or `model`."""


class Occupied(UserError):
    """A folder holds a finished artefact that does not fit the request."""

    def __init__(self, folder: Path, different: list[str], remedy: str = "give --force to replace it") -> None:
        """`remedy` is what to do besides choosing another folder."""
        self.folder, self.different = folder, different
        names = f"{', '.join(different[:-1])} and {different[-1]}" if different[1:] else different[0]
        super().__init__(f"{folder} is finished and differs in its {names}; choose another --out, or {remedy}.")


def differences(
    found: Artifact, config: Config | None, parents: Mapping[str, Artifact], leave_out: tuple[str, ...] = ()
) -> list[str]:
    """Names of the options and the parents by which a finished artefact differs from a config and parents.

    Options in `leave_out` do not count, and without a config none does.
    """
    options: list[str] = []
    if config is not None:
        theirs = found.config(type(config))
        names = [name for name in type(config).model_fields if name not in leave_out]
        options = [name for name in names if getattr(theirs, name) != getattr(config, name)]
    return options + [role for role, parent in parents.items() if found.meta.parents.get(role) != parent.id]


def finished(folder: Path, load: Callable[[Path], T], differ: Differ[T]) -> T | None:
    """The finished artefact in `folder`; None where there is none, one that differs, or a damaged or older one."""
    try:
        return refuse_another(folder, load, differ)
    except Occupied:
        return None


def refuse_another(folder: Path, load: Callable[[Path], T], differ: Differ[T]) -> T | None:
    """The same, but raises Occupied where the finished artefact in `folder` differs."""
    if not is_finished(folder):
        return None
    try:
        found = load(folder)
        different = differ(found)
    except UserError:
        return None
    if different:
        raise Occupied(folder, different)
    return found


def reuse_or_make(
    folder: Path,
    load: Callable[[Path], T],
    differ: Differ[T],
    make: Callable[[], T],
    report: Report = silent,
    again: bool = False,
) -> T:
    """The finished artefact in `folder`, else what `make` makes there; with `again`, `make` always makes it.

    Raises Occupied where the finished artefact differs from what is wanted, and UserError, before `make` begins, where
    `folder` cannot be written.
    """
    sweep(folder.parent, folder.name)
    found = None if again else refuse_another(folder, load, differ)
    if found is None:
        check_place(folder)
        return make()
    report(1, 1, Reused(folder))
    return found

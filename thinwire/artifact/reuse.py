"""Reuse what is finished, or make it: the rule by which every stage, run again, does only what is left to do.

A finished artefact is reused when it is whole and fits the request: the same config, and sources and parents of the
same content, whatever their paths. Anything else in its place is made again. Reuse is always reported, as `Reused`.
What a killed run left beside the folder is removed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from thinwire.artifact.meta import is_finished
from thinwire.artifact.place import check_place
from thinwire.artifact.scratch import sweep
from thinwire.errors import UserError
from thinwire.progress import Report, Reused, silent

T = TypeVar("T")


def finished(folder: Path, load: Callable[[Path], T], fits: Callable[[T], bool]) -> T | None:
    """The finished artefact in `folder` if it fits; None where there is none, or a damaged or older one."""
    if not is_finished(folder):
        return None
    try:
        found = load(folder)
        return found if fits(found) else None
    except UserError:
        return None


def reuse_or_make(
    folder: Path, find: Callable[[], T | None], make: Callable[[], T], report: Report = silent, again: bool = False
) -> T:
    """What `find` finds finished in `folder`, else what `make` makes there; with `again`, `make` always makes it.

    Raises UserError before `make` begins where `folder` cannot be written.
    """
    sweep(folder.parent, folder.name)
    found = None if again else find()
    if found is None:
        check_place(folder)
        return make()
    report(1, 1, Reused(folder))
    return found

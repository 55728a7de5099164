"""Circuits that a command names: their folders, or workspaces that stand for all of theirs."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from thinwire import artifact
from thinwire.errors import UserError


def circuit_folders(given: Sequence[Path]) -> list[Path]:
    """Circuit folders, each once; a workspace, or a folder of circuits, stands for all circuits that are finished.

    Raises UserError for a workspace without any. An unfinished circuit is refused where it is opened.
    """
    from thinwire.stages.workspace import Workspace, finished_in

    found: list[Path] = []
    for folder in given:
        if artifact.is_finished(folder) or not folder.is_dir():
            found.append(folder)
            continue
        work = Workspace(folder)
        below = work.circuits() or finished_in(folder, "circuit")
        model = next((one for one in (work.model, Workspace(folder.parent).model) if _has_config(one)), None)
        if not below and model is not None and not _has_config(folder):
            remedy = shlex.join(["thinwire", "prune", str(model)])
            raise UserError(f"{folder} has no finished circuit; make one with `{remedy} --task TASK`.")
        found += below or [folder]
    return list({folder.absolute(): folder for folder in found}.values())


def _has_config(folder: Path) -> bool:
    return (folder / artifact.CONFIG).is_file()

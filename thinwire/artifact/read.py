"""Opening artefacts: a folder is read only after its format and the content of every file have been checked."""

import os
from pathlib import Path

from thinwire import shipped
from thinwire.artifact.meta import CONFIG, META, Artifact, FileEntry, read_head, read_meta, registered, sha256
from thinwire.artifact.scratch import sweep
from thinwire.errors import UserError


def open_artifact(folder: Path, kind: str, remedy: str = "make the artefact again") -> Artifact:
    """Open a finished artefact of the format `kind` and check every file.

    An artefact of a shipped format, such as a model, may be given by its shipped name. `remedy` is the advice of the
    error where files are damaged. Raises UserError, in one sentence, for anything that is not a whole artefact of this
    format, and for a format that no imported module registers.
    """
    form = registered(kind)
    folder = shipped.find(folder) if form.shipped else Path(folder)
    if not os.path.isdir(folder):
        sweep(folder.parent, folder.name)  # a killed writer may have moved it away
    if not _is_folder(folder):
        known = ", ".join(shipped.names()) if form.shipped else ""
        other = f" or the name of a shipped one ({known})" if known else ""
        raise UserError(f"{folder} is not a folder; give the path of a {kind} artefact{other}.")
    if not _is_there(folder / META):
        unfinished = os.path.exists(folder / CONFIG)
        problem = "is unfinished; run the command that makes it again" if unfinished else f"is not a {kind} artefact"
        raise UserError(f"{folder} {problem} (it has no meta.json).")
    head = read_head(folder / META, remedy)
    if head.format != kind:
        raise UserError(f"{folder} is a {head.format} artefact where a {kind} artefact is needed.")
    meta = read_meta(folder / META, remedy)
    for name, entry in meta.files.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{folder}/{META} names a file outside the folder ({name}); do not trust this artefact.")
        if not form.may_list(name):
            raise UserError(f"{folder}/{META} lists {name}, which a {kind} artefact does not have; do not trust it.")
        _check_file(folder / name, entry, remedy)
    return Artifact(folder, meta)


def _is_folder(path: Path) -> bool:
    return _is_there(path) and os.path.isdir(path)


def _is_there(path: Path) -> bool:
    """Whether there is anything at a path. Raises UserError where that cannot be known."""
    try:
        os.stat(path)
    except PermissionError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); make it readable.") from None
    except (OSError, ValueError):
        return os.path.islink(path)
    return True


def _check_file(path: Path, entry: FileEntry, remedy: str) -> None:
    try:
        whole = os.stat(path).st_size == entry.bytes and sha256(path) == entry.sha256
    except PermissionError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); make it readable.") from None
    except (OSError, ValueError):
        whole = False
    if not whole:
        raise UserError(f"{path} is missing, truncated or altered; {remedy}.")

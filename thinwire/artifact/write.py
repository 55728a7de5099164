"""Writing artefacts: atomic writes of files, atomic replacement of folders, and one writer at a time."""

import errno
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from thinwire.artifact.meta import (
    CONFIG,
    FORMATS,
    META,
    Artifact,
    FileEntry,
    Meta,
    is_finished,
    read_head,
    registered,
    sha256,
    unfinished_kind,
    version,
)
from thinwire.artifact.place import require_file_place, room_for, unwritable
from thinwire.artifact.scratch import put_in_place, scratch_beside, sweep
from thinwire.config import Config
from thinwire.errors import UserError
from thinwire.files import open_regular, read_text

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


LOCK = ".lock"
"""Name of the file by which a process locks a folder that it writes in."""
OF_EVERY_VERSION = {"format", "version", "thinwire", "files"}
"""Keys that the `meta.json` of every version has."""
IN_PROGRESS = r"|checkpoint.*\.safetensors|report\.html|tensorboard|wandb.*"
"""What a training run has in its folder besides the files of a model."""
READ_WRITE = stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path of the same name elsewhere, whose file replaces `path` when the block ends without an error.

    The file gets the mode that the umask gives. Raises UserError as `require_file_place` does, and where the disk is
    full.
    """
    path = Path(path)
    require_file_place(path)
    with room_for(path), scratch_beside(path) as scratch:
        temporary = scratch / path.name
        yield temporary
        temporary.chmod(stat.S_IMODE(scratch.stat().st_mode) & READ_WRITE)
        with open_regular(temporary) as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def finish(
    folder: Path, kind: str, config: Config, parents: Mapping[str, Artifact], files: list[str], seed: int | None = None
) -> Artifact:
    """Write `config.json` and then `meta.json`, which makes the folder a finished artefact of the format `kind`.

    Raises UserError for a format that no imported module registers.
    """
    form = registered(kind)
    foreign = [name for name in files if not form.may_list(name)]
    assert not foreign, f"the format {kind} registers no file {foreign[0]}"
    write_text(folder / CONFIG, config.to_json())
    entries = {
        name: FileEntry(bytes=(folder / name).stat().st_size, sha256=sha256(folder / name)) for name in [CONFIG, *files]
    }
    meta = Meta(
        format=kind,
        version=form.version,
        thinwire=version(),
        seed=seed,
        parents={name: parent.id for name, parent in parents.items()},
        files=entries,
    )
    write_text(folder / META, meta.model_dump_json(indent=2))
    return Artifact(folder, meta)


@contextmanager
def replacing(folder: Path, kind: str | None = None) -> Iterator[Path]:
    """A scratch folder that replaces `folder` when the block ends without an error.

    The earlier contents of `folder` stay intact until then. Raises UserError when they are not an artefact, or one of
    another kind.
    """
    folder = Path(folder).resolve()  # a link stays a link: the folder it points to is replaced
    refuse_foreign(folder, kind)
    make_parents(folder)
    with room_for(folder), ExitStack() as stack:
        try:
            scratch = stack.enter_context(scratch_beside(folder))
        except OSError as error:
            raise unwritable(folder, error, verb="created") from None
        yield scratch
        put_in_place(scratch, folder)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes that write in it; the lock ends with the process, even one that is killed.

    Raises UserError when another process has the lock, or when nothing can be written there. Without effect on systems
    that have no file locks.
    """
    make_parents(folder / LOCK)
    try:
        handle = _open_lock(folder / LOCK)
    except OSError as error:
        raise unwritable(folder, error) from None
    try:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"Another process is writing in {folder}; wait for it, or choose another --out."
                ) from None
        sweep(folder)
        yield
    finally:
        os.close(handle)


def _open_lock(path: Path) -> int:
    """Open or create a lock file, and leave its content alone. Raises UserError for a link, and for other things."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    advice = f"delete {path}, or choose another --out"
    if path.is_symlink():
        raise UserError(f"{path} is a link, which is no lock; {advice}.")
    handle = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError(f"{path} is not a regular file, which is no lock; {advice}.")
    return handle


def make_parents(path: Path) -> None:
    """Create the parent folder of `path`. Raises UserError when it cannot be created or written in."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path.parent, error, verb="created") from None
    if not os.access(path.parent, os.W_OK):
        raise unwritable(path.parent, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def refuse_foreign(folder: Path, kind: str | None = None) -> None:
    """Raise UserError when `folder` is a file, or has contents that are not those of an artefact.

    With `kind`, the format that is to be written there, an artefact of another format is refused too, and so is an
    unfinished training run.
    """
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"{folder} is a file; choose a folder for --out.")
    around = next((path for path in folder.absolute().parents if is_finished(path)), None)
    if around is not None and os.path.isfile(around / CONFIG):
        raise UserError(f"{folder} lies in the artefact {around}, which may be replaced; choose another --out.")
    begun = re.compile(r"\.lock|\.config\.json\..*\.tmp")  # a run leaves these when it is killed at its first write
    try:
        filled = os.path.isdir(folder) and not all(map(begun.fullmatch, os.listdir(folder)))
    except OSError as error:
        raise unwritable(folder, error, verb="read") from None
    if filled and not (os.path.exists(folder / CONFIG) and _may_be_ours(folder / META)):
        raise UserError(f"{folder} holds files that are not a thinwire artefact; choose another --out.")
    if filled:
        _refuse_other_contents(folder, kind)


def _refuse_other_contents(folder: Path, kind: str | None) -> None:
    """Raise UserError for an artefact of another format than `kind`, and for what is none for certain.

    That is a folder without a valid meta.json and with files that no such artefact has; they would be lost with it.
    """
    names = [name for name in sorted(os.listdir(folder)) if name not in (CONFIG, META)]
    forms = [FORMATS[kind]] if kind is not None and kind in FORMATS else [FORMATS[name] for name in FORMATS]
    patterns = [Path(pattern).parts[0] for form in forms for pattern in form.files]
    of_format = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    found = _kind_of(folder)
    if kind is not None and found not in (kind, None) and (is_finished(folder) or not of_format):
        raise UserError(f"{folder} holds a {found} where a {kind} is to be written; choose another --out.")
    if is_finished(folder) and found is not None:
        return
    left = re.compile(r"\.lock|\..*\.tmp" + (IN_PROGRESS if any(form.in_place for form in forms) else ""))
    other = [name for name in names if name not in of_format and not left.fullmatch(name)]
    if other:
        what = kind or "thinwire"
        raise UserError(f"{folder} holds {other[0]}, which no {what} artefact has; move it, or choose another --out.")


def _may_be_ours(meta: Path) -> bool:
    """Whether a `meta.json` is absent, of any version, or cut short; other whole JSON belongs to another program.

    Raises UserError for a version that this thinwire does not know yet.
    """
    if not os.path.lexists(meta):
        return True
    try:
        found = json.loads(read_text(meta))
        if not (isinstance(found, dict) and found.keys() >= OF_EVERY_VERSION):
            return False
        head = read_head(meta)
    except (UserError, OSError):
        return False
    except (ValueError, RecursionError):
        return True
    if head.format in FORMATS and head.version > FORMATS[head.format].version:
        raise UserError(f"{meta.parent} is of a newer thinwire, which may be needed; choose another --out.")
    return True


def _kind_of(folder: Path) -> str | None:
    """The kind of artefact in a folder with a config; None where its meta.json is damaged."""
    if not is_finished(folder):
        return unfinished_kind() or "run that is not finished"
    try:
        return read_head(folder / META).format
    except UserError:
        return None

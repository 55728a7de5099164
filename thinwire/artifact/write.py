"""Writing artefacts: atomic writes of files, atomic replacement of folders, and one writer at a time."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from thinwire.artifact.meta import (
    CONFIG,
    META,
    Artifact,
    FileEntry,
    Meta,
    is_finished,
    read_meta,
    registered,
    sha256,
    unfinished_kind,
    version,
)
from thinwire.config import Config
from thinwire.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends without an error."""
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
    try:
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
    except OSError as error:
        raise UserError(f"{folder} cannot be created ({error.strerror}); choose another --out.") from None
    scratch.chmod(0o755)
    try:
        yield scratch
        old = scratch.with_suffix(".old")
        try:
            if folder.exists():
                folder.rename(old)
            scratch.rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes that write in it; the lock ends with the process, even one that is killed.

    Raises UserError when another process has the lock, or when nothing can be written there. Without effect on systems
    that have no file locks.
    """
    make_parents(folder / ".lock")
    try:
        opened = open(folder / ".lock", "w", encoding="utf-8")  # noqa: SIM115 (closed by the with below)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); choose another --out.") from None
    with opened as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"Another process is writing in {folder}; wait for it, or choose another --out."
                ) from None
        yield


def make_parents(path: Path) -> None:
    """Create the parent folder of `path`. Raises UserError when it cannot be created or written in."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be created ({error.strerror}); choose another --out.") from None
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path.parent} cannot be written; choose another --out.")


def refuse_foreign(folder: Path, kind: str | None = None) -> None:
    """Raise UserError when `folder` is a file, or has contents that are not those of an artefact.

    With `kind`, the format that is to be written there, an artefact of another format is refused too, and so is an
    unfinished training run.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose a folder for --out.")
    around = next((path for path in folder.absolute().parents if (path / META).is_file()), None)
    if around is not None and (around / CONFIG).is_file():
        raise UserError(f"{folder} lies in the artefact {around}, which may be replaced; choose another --out.")
    begun = re.compile(r"\.lock|\.config\.json\..*\.tmp")  # a run leaves these when it is killed at its first write
    filled = folder.is_dir() and not all(begun.fullmatch(path.name) for path in folder.iterdir())
    if filled and not ((folder / CONFIG).exists() and _may_be_ours(folder / META)):
        raise UserError(f"{folder} holds files that are not a thinwire artefact; choose another --out.")
    if filled and kind is not None:
        found = _kind_of(folder)
        if found not in (kind, None):
            raise UserError(f"{folder} holds a {found} where a {kind} is to be written; choose another --out.")


def _may_be_ours(meta: Path) -> bool:
    """Whether a `meta.json` is absent, valid, or cut short; whole JSON of another form belongs to another program."""
    try:
        return isinstance(json.loads(meta.read_bytes()), dict) and bool(read_meta(meta))
    except UserError:
        return False
    except (OSError, ValueError, RecursionError):
        return True


def _kind_of(folder: Path) -> str | None:
    """The kind of artefact in a folder with a config; None where its meta.json is damaged."""
    if not is_finished(folder):
        return unfinished_kind() or "run that is not finished"
    try:
        return read_meta(folder / META).format
    except UserError:
        return None

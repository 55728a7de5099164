"""Artefact folders: what every stage reads and writes.

A folder holds `config.json` (resolved), data files, and `meta.json` (format and version, package version, seed, parents
and files by content hash). `meta.json` is written last, so a folder without it is unfinished and is never read as done.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from thinwire import shipped
from thinwire.config import Config
from thinwire.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FORMATS = {"tokens": 1, "model": 1, "circuit": 1, "verdict": 2}
"""Kinds of artefact and the version of each format that this package reads and writes."""
SUMMARY = "summary.json"
"""Name of the file in which an artefact keeps what its run measured, times among it."""
METRICS = "metrics.jsonl"
"""Name of the file in which a training run wrote what it measured on its way."""
C = TypeVar("C", bound=Config)


class FileEntry(BaseModel):
    """Size in bytes and SHA-256 of one file of an artefact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    bytes: int
    sha256: str


class Meta(BaseModel):
    """Contents of `meta.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: str
    version: int
    thinwire: str
    seed: int | None
    parents: dict[str, str]
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class Artifact:
    """A finished artefact folder whose files have been checked against `meta.json`."""

    path: Path
    meta: Meta

    @property
    def id(self) -> str:
        """Content hash: 16 hex digits over the kind, config and data files; the name children know a parent by.

        What a run measured of itself is left out: it holds times, a run may be watched more or less closely, and the
        same result again has the same id.
        """
        measured = (SUMMARY, METRICS)
        entries = sorted((name, entry.sha256) for name, entry in self.meta.files.items() if name not in measured)
        return hashlib.sha256(json.dumps([self.meta.format, entries]).encode()).hexdigest()[:16]

    def config(self, cls: type[C]) -> C:
        """The resolved config the artefact was made with."""
        return cls.load(self.path / "config.json")


def version() -> str:
    """Version of the installed package."""
    from importlib.metadata import version as installed

    return installed("thinwire")


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


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finish(
    folder: Path, kind: str, config: Config, parents: Mapping[str, Artifact], files: list[str], seed: int | None = None
) -> Artifact:
    """Write `config.json` and then `meta.json`, which makes the folder a finished artefact."""
    write_text(folder / "config.json", config.to_json())
    entries = {
        name: FileEntry(bytes=(folder / name).stat().st_size, sha256=sha256(folder / name))
        for name in ["config.json", *files]
    }
    meta = Meta(
        format=kind,
        version=FORMATS[kind],
        thinwire=version(),
        seed=seed,
        parents={name: parent.id for name, parent in parents.items()},
        files=entries,
    )
    write_text(folder / "meta.json", meta.model_dump_json(indent=2))
    return Artifact(folder, meta)


@contextmanager
def replacing(folder: Path, kind: str | None = None) -> Iterator[Path]:
    """A scratch folder that takes the place of `folder` when the block ends without an error.

    Whatever stood there before stays intact until then. Raises UserError when it is not ours, or of another kind.
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
    """Hold a folder against other processes that would write in it; the hold ends with the process, however it ends.

    Raises UserError when another process holds it or when nothing can be written there. Where the system has no file
    locks, nothing is held.
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
    """Create the folder that `path` lies in. Raises UserError when that cannot be done, or nothing written there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be created ({error.strerror}); choose another --out.") from None
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path.parent} cannot be written; choose another --out.")


def refuse_foreign(folder: Path, kind: str | None = None) -> None:
    """Raise UserError when `folder` is a file, or a folder with contents that no artefact of ours has.

    Given the kind that is to be written there, work of another kind is refused too, an unfinished training included.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose a folder for --out.")
    around = next((path for path in folder.absolute().parents if (path / "meta.json").is_file()), None)
    if around is not None and (around / "config.json").is_file():
        raise UserError(f"{folder} lies in the artefact {around}, which may be replaced; choose another --out.")
    begun = re.compile(r"\.lock|\.config\.json\..*\.tmp")  # of a run that was killed before it had anything else
    filled = folder.is_dir() and not all(begun.fullmatch(path.name) for path in folder.iterdir())
    if filled and not ((folder / "config.json").exists() and _may_be_ours(folder / "meta.json")):
        raise UserError(f"{folder} holds files that are not a thinwire artefact; choose another --out.")
    if filled and kind is not None:
        found = _kind_of(folder)
        if found not in (kind, None):
            raise UserError(f"{folder} holds a {found} where a {kind} is to be written; choose another --out.")


def _may_be_ours(meta: Path) -> bool:
    """Whether a `meta.json` is absent, ours, or cut short; whole JSON of another form is someone else's."""
    try:
        return isinstance(json.loads(meta.read_bytes()), dict) and bool(read_meta(meta))
    except UserError:
        return False
    except (OSError, ValueError, RecursionError):
        return True


def _kind_of(folder: Path) -> str | None:
    """The kind of work in a folder with a config; None where its meta.json is damaged."""
    if not is_finished(folder):
        return "model"  # the only kind that is made in place; the others appear whole
    try:
        return read_meta(folder / "meta.json").format
    except UserError:
        return None


def is_finished(folder: Path) -> bool:
    """Whether `folder` holds a `meta.json`, without checking anything else."""
    return (Path(folder) / "meta.json").is_file()


def open_artifact(folder: Path, kind: str, remedy: str = "make the artefact again") -> Artifact:
    """Open a finished artefact of `kind` and check every file. Raises UserError, in one sentence, for anything else.

    A model may be given by the name of a shipped one. `remedy` is what the sentence advises where files are damaged.
    """
    folder = shipped.find(folder) if kind == "model" else Path(folder)
    if not folder.is_dir():
        known = ", ".join(shipped.names()) if kind == "model" else ""
        other = f" or the name of a shipped one ({known})" if known else ""
        raise UserError(f"{folder} is not a folder; give the path of a {kind} artefact{other}.")
    if not is_finished(folder):
        unfinished = (folder / "config.json").exists()
        said = "is unfinished; run the command that makes it again" if unfinished else f"is not a {kind} artefact"
        raise UserError(f"{folder} {said} (it has no meta.json).")
    meta = read_meta(folder / "meta.json", remedy)
    if meta.format != kind:
        raise UserError(f"{folder} is a {meta.format} artefact where a {kind} artefact is needed.")
    if meta.version != FORMATS[kind]:
        raise UserError(
            f"{folder} has {kind} format {meta.version} and this thinwire reads {FORMATS[kind]}; make it again."
        )
    for name, entry in meta.files.items():
        _check_file(folder, name, entry, remedy)
    return Artifact(folder, meta)


def require_parent(child: Artifact, name: str, parent: Artifact) -> None:
    """Raise UserError unless `child` was made from exactly this `parent`."""
    if child.meta.parents.get(name) != parent.id:
        raise UserError(
            f"{child.path} was not made from {parent.path} (its {name} has another content hash); "
            f"make it again from this {name}."
        )


def read_meta(path: Path, remedy: str = "make the artefact again") -> Meta:
    """The contents of a `meta.json`. Raises UserError when it is damaged."""
    try:
        return Meta.model_validate_json(path.read_bytes())
    except ValidationError:
        raise UserError(f"{path} is damaged or was not written by thinwire; {remedy}.") from None


def _check_file(folder: Path, name: str, entry: FileEntry, remedy: str) -> None:
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{folder}/meta.json names a file outside the folder ({name}); do not trust this artefact.")
    try:
        whole = path.is_file() and path.stat().st_size == entry.bytes and sha256(path) == entry.sha256
    except OSError:
        whole = False
    if not whole:
        raise UserError(f"{path} is missing, truncated or altered; {remedy}.")

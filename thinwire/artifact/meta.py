"""What an artefact says of itself: its format, its parents, and its files with their content hashes."""

import hashlib
import json
import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from thinwire.config import Config
from thinwire.display import line, one_line
from thinwire.errors import UserError
from thinwire.files import open_regular, read_text
from thinwire.registry import Registry

CONFIG = "config.json"
"""Name of the file with the resolved config."""
META = "meta.json"
"""Name of the file that makes a folder a finished artefact."""
SUMMARY = "summary.json"
"""Name of the file with the measurements of the run that made an artefact, its times among them."""
METRICS = "metrics.jsonl"
"""Name of the file with the measurements that a training run wrote while it trained."""
LARGEST_META = 16 << 20
"""Bytes of the largest `meta.json` that is read; an artefact of a hundred thousand files has one of this size."""
C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Format:
    """One kind of artefact, as the room that writes it registers it in `FORMATS`."""

    version: int
    """Version that this package writes, and the only one that it reads."""
    files: tuple[str, ...]
    """Data files that an artefact may list; `*` and `?` stand for any characters."""
    shipped: bool = False
    """Whether the package ships artefacts of this format, which open by their names."""
    in_place: bool = False
    """Whether an artefact of this format grows in its folder, which has a config first; the others appear whole."""

    def may_list(self, name: str) -> bool:
        """Whether an artefact of this format may list a file of this name."""
        return name == CONFIG or any(fnmatchcase(name, pattern) for pattern in self.files)


FORMATS: Registry[Format] = Registry("artefact format")
"""Artefact formats by name. Importing the room that writes a format registers it."""


class FileEntry(BaseModel):
    """Size in bytes and SHA-256 of one file of an artefact."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    bytes: int = Field(ge=0)
    sha256: str


class Head(BaseModel):
    """What every version of every format says in `meta.json`."""

    model_config = ConfigDict(frozen=True, strict=True)
    format: str
    version: int


class Meta(BaseModel):
    """Contents of `meta.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    format: str
    version: int
    thinwire: str
    seed: int | None
    parents: dict[str, str]
    files: dict[str, FileEntry]

    def __repr__(self) -> str:
        return line(type(self).__name__, self)


@one_line
@dataclass(frozen=True)
class Artifact:
    """A finished artefact folder whose files have been checked against `meta.json`."""

    path: Path
    meta: Meta

    @property
    def id(self) -> str:
        """Content hash: 16 hex digits over the kind, config and data files; children name their parents by it.

        Measurements of the run are left out: they contain times, and a run may be watched more or less closely. So the
        same result always has the same id.
        """
        measured = (SUMMARY, METRICS)
        entries = sorted((name, entry.sha256) for name, entry in self.meta.files.items() if name not in measured)
        return hashlib.sha256(json.dumps([self.meta.format, entries]).encode()).hexdigest()[:16]

    @property
    def meta_file(self) -> Path:
        """The path of the `meta.json`."""
        return self.path / META

    def file(self, name: str) -> Path:
        """The path of a file that `meta.json` lists, so that its content has been checked.

        Every reader gets its paths here. Raises UserError for a file that is not listed.
        """
        if name not in self.meta.files:
            raise UserError(f"{self.meta_file} does not list {name}, which is needed; make the artefact again.")
        return self.path / name

    def config(self, cls: type[C]) -> C:
        """The resolved config that the artefact was made with."""
        return cls.load(self.file(CONFIG))


def registered(kind: str, folder: Path | None = None) -> Format:
    """The format called `kind`, which the artefact in `folder` has. Raises UserError where it is not registered."""
    if kind in FORMATS:
        return FORMATS[kind]
    subject = f"{folder} is an artefact of format '{kind}', which" if folder else f"'{kind}' is a format that"
    raise UserError(f"{subject} no imported module registers; import or install the module that writes this format.")


def unfinished_kind() -> str | None:
    """The format of an unfinished artefact: the registered one that is written in place; None where none is."""
    return next((name for name in FORMATS if FORMATS[name].in_place), None)


def version() -> str:
    """Version of the installed package."""
    from importlib.metadata import version as installed

    return installed("thinwire")


def sha256(path: Path) -> str:
    """SHA-256 of a regular file's bytes, in hex. Raises OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_finished(folder: Path) -> bool:
    """Whether `folder` has a `meta.json`, without checking anything else."""
    return os.path.isfile(Path(folder) / META)


def read_head(path: Path, remedy: str = "make the artefact again") -> Head:
    """Format and version in a `meta.json`, of whatever version. Raises UserError when it is damaged or unreadable."""
    return _read(Head, path, remedy)


def read_meta(path: Path, remedy: str = "make the artefact again") -> Meta:
    """The contents of a `meta.json`. Raises UserError when it is damaged or unreadable, or of another version."""
    head = _read(Head, path, remedy)
    known = FORMATS[head.format].version if head.format in FORMATS else head.version
    if head.version != known:
        advice = "update thinwire, or make it again" if head.version > known else "make it again"
        raise UserError(
            f"{path.parent} has {head.format} format {head.version} and this thinwire reads {known}; {advice}."
        )
    return _read(Meta, path, remedy)


M = TypeVar("M", bound=BaseModel)


def _read(cls: type[M], path: Path, remedy: str) -> M:
    try:
        return cls.model_validate_json(read_text(path, LARGEST_META))
    except ValidationError:
        raise UserError(f"{path} is damaged or was not written by thinwire; {remedy}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}.") from None


def require_parent(child: Artifact, name: str, parent: Artifact) -> None:
    """Raise UserError unless `child` was made from exactly this `parent`."""
    if child.meta.parents.get(name) != parent.id:
        raise UserError(
            f"{child.path} was not made from {parent.path} (its {name} has another content hash); "
            f"make it again from this {name}."
        )

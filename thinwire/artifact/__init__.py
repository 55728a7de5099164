"""Artefact folders: what every stage reads and writes.

A folder holds `config.json` (resolved), data files, and `meta.json` (format and version, package version, seed, parents
and files by content hash). `meta.json` is written last, so a folder without it is unfinished and never counts as done.
A room registers the format that it writes in `FORMATS`.
"""

from thinwire.artifact.meta import (
    CONFIG,
    FORMATS,
    METRICS,
    SUMMARY,
    Artifact,
    FileEntry,
    Format,
    Meta,
    is_finished,
    read_head,
    read_meta,
    registered,
    require_parent,
    sha256,
    unfinished_kind,
    version,
)
from thinwire.artifact.place import (
    check_file_place,
    check_place,
    refuse_inside,
    require_file_place,
    same_file,
    unwritable,
)
from thinwire.artifact.read import open_artifact
from thinwire.artifact.reuse import Occupied, differences, finished, refuse_another, reuse_or_make
from thinwire.artifact.scratch import put_in_place, sweep
from thinwire.artifact.write import (
    atomic,
    finish,
    make_parents,
    refuse_foreign,
    replacing,
    sole_writer,
    write_text,
)

__all__ = [
    "CONFIG",
    "FORMATS",
    "METRICS",
    "SUMMARY",
    "Artifact",
    "FileEntry",
    "Format",
    "Meta",
    "Occupied",
    "atomic",
    "check_file_place",
    "check_place",
    "differences",
    "finish",
    "finished",
    "is_finished",
    "make_parents",
    "open_artifact",
    "put_in_place",
    "read_head",
    "read_meta",
    "refuse_another",
    "refuse_foreign",
    "refuse_inside",
    "registered",
    "replacing",
    "require_file_place",
    "require_parent",
    "reuse_or_make",
    "same_file",
    "sha256",
    "sole_writer",
    "sweep",
    "unfinished_kind",
    "unwritable",
    "version",
    "write_text",
]

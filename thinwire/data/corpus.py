"""Documents of a corpus: generated idioms, the installed standard library, and folders of Python files.

Reading is deterministic: parts in a fixed order, files sorted by name, line ends as `\\n`. Skipped files are reported.
"""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thinwire.data.config import DataConfig, Part
from thinwire.data.idioms import documents as idiom_documents
from thinwire.errors import UserError
from thinwire.files import open_regular

GENERATED = "generated"
"""Name of the source of all idioms."""
STDLIB_EXCLUDED = frozenset(
    # tests and installed packages; then tables of characters and of help texts, which are data and not code
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings", "pydoc_data"}
)
MACHINE_FILES = ("_sysconfigdata", "_sysconfig_vars", "sitecustomize", "usercustomize")
"""Files of the standard library that describe one machine rather than the language."""


@dataclass(frozen=True)
class Document:
    """One text with the part and the source it came from."""

    part: Part
    name: str
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text in UTF-8, in hex."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class Skipped:
    """A skipped text, and the reason: `unreadable`, `too large`, `undecodable`, `empty` or `duplicate`."""

    part: Part
    name: str
    reason: str


@dataclass(frozen=True)
class SourceFile:
    """One file to read; `name` is relative and the same on every machine."""

    part: Part
    name: str
    path: Path


def parts(config: DataConfig) -> tuple[Part, ...]:
    """The parts that a config selects. Raises UserError when there are none."""
    selected: dict[Part, bool] = {
        "idioms": config.idioms > 0,
        "stdlib": config.stdlib,
        "folders": bool(config.folders),
    }
    if not any(selected.values()):
        raise UserError("The corpus is empty; choose idioms, the standard library, or a folder of .py files.")
    return tuple(part for part, wanted in selected.items() if wanted)


def list_files(config: DataConfig) -> list[SourceFile]:
    """Every file that the config selects. Raises UserError for a folder that is missing or holds no .py file."""
    files: list[SourceFile] = []
    if config.stdlib:
        files += stdlib_files(Path(sysconfig.get_paths()["stdlib"]))
    for folder in config.folders:
        files += folder_files(folder)
    return files


def stdlib_files(root: Path) -> list[SourceFile]:
    """The standard library's sources under `root`, without tests, tables and machine-specific files."""
    found = [
        SourceFile("stdlib", name, root / name)
        for name in _walk(root, STDLIB_EXCLUDED)
        if not Path(name).name.startswith(MACHINE_FILES)
    ]
    if not found:
        raise UserError(f"{root} holds no sources of the standard library; set stdlib to false and give a folder.")
    return found


def folder_files(folder: Path) -> list[SourceFile]:
    """The .py files under a folder, named `folder/relative/path.py`."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give a folder of .py files.")
    label = folder.resolve().name
    found = [SourceFile("folders", f"{label}/{name}", folder / name) for name in _walk(folder, frozenset())]
    if not found:
        raise UserError(f"{folder} holds no .py files; give a folder that does.")
    return found


def read(config: DataConfig, files: list[SourceFile]) -> Iterator[Document | Skipped]:
    """Every document of the corpus, duplicates included, idioms first and then the files in their order."""
    if config.idioms:
        for text in idiom_documents(config.idioms, config.seed):
            yield Document("idioms", GENERATED, normalize(text))
    for file in files:
        yield read_file(file, config.max_file_bytes)


def read_file(file: SourceFile, max_bytes: int) -> Document | Skipped:
    """The document a file holds, or why it holds none."""
    try:
        with open_regular(file.path) as opened:
            raw = opened.read(max_bytes + 1)
    except OSError:
        return Skipped(file.part, file.name, "unreadable")
    if len(raw) > max_bytes:
        return Skipped(file.part, file.name, "too large")
    try:
        text = normalize(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return Skipped(file.part, file.name, "undecodable")
    return Document(file.part, file.name, text) if text.strip() else Skipped(file.part, file.name, "empty")


def normalize(text: str) -> str:
    """The text with `\\n` at every line end and without a byte order mark."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _walk(root: Path, excluded: frozenset[str]) -> Iterator[str]:
    """Relative names, with `/`, of the regular .py files under a folder, sorted; links to folders are not followed."""

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}); make it readable or choose another folder."
        )

    for place, folders, names in os.walk(root, onerror=refuse):
        folders[:] = sorted(
            name for name in folders if name not in excluded and name != "__pycache__" and not name.startswith(".")
        )
        for name in sorted(names):
            path = Path(place) / name
            if name.endswith(".py") and path.is_file():
                yield path.relative_to(root).as_posix()

"""Documents of a corpus: generated idioms, the installed standard library, and folders of Python files.

Reading is deterministic: parts in a fixed order, files sorted by name, line ends as `\\n`. Everything that is left out
is counted by its reason: a file, or a hidden or linked folder, which is not entered.
"""

import hashlib
import os
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from thinwire.data.config import DataConfig, Part
from thinwire.data.decode import NotText, decode
from thinwire.data.idioms import documents as idiom_documents
from thinwire.errors import UserError
from thinwire.files import open_regular

GENERATED = "generated"
"""Name of the source of all idioms."""
STDLIB_EXCLUDED = frozenset(
    # tests and installed packages; then tables of characters and of help texts, which are data and not code
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings", "pydoc_data"}
)
DUPLICATE = "duplicate"
"""Why a document is left out that is there already."""
HIDDEN, LINKED = FOLDERS = "hidden folder", "linked folder"
"""Why a folder is not entered."""
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
    """Something that is left out, and the reason.

    A file is `unreadable`, `too large`, `undecodable`, `empty` or a `duplicate`; a folder that is not entered
    is a `hidden folder` or a `linked folder`.
    """

    part: Part
    name: str
    reason: str
    digest: str = ""
    """Of a duplicate: the SHA-256 of its text."""


@dataclass(frozen=True)
class SourceFile:
    """One file to read, or a path to leave out; `name` is relative and the same on every machine."""

    part: Part
    name: str
    path: Path
    left_out: str = ""
    """Why it is not read: a reason as in Skipped."""


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
        SourceFile("stdlib", name, root / name, left_out)
        for name, left_out in _walk(root, STDLIB_EXCLUDED)
        if not Path(name).name.startswith(MACHINE_FILES)
    ]
    if all(file.left_out for file in found):
        raise UserError(f"{root} holds no sources of the standard library; set stdlib to false and give a folder.")
    return found


def folder_files(folder: Path) -> list[SourceFile]:
    """The .py files under a folder, named `folder/relative/path.py`, and the folders that are not entered."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give a folder of .py files.")
    label = folder.resolve().name
    found = [
        SourceFile("folders", f"{label}/{name}", folder / name, left_out)
        for name, left_out in _walk(folder, frozenset())
    ]
    if all(file.left_out for file in found):
        unread = f" outside {counted(Counter(file.left_out for file in found))}" if found else ""
        raise UserError(f"{folder} holds no .py files{unread}; give a folder that does.")
    return found


def counted(reasons: Mapping[str, int]) -> str:
    """Reasons with their numbers, such as `2 hidden folders, 1 undecodable`."""
    nouns = (DUPLICATE, *FOLDERS)
    plural = {reason: "s" if count != 1 and reason in nouns else "" for reason, count in reasons.items()}
    return ", ".join(f"{count:,} {reason}{plural[reason]}" for reason, count in sorted(reasons.items()))


def read(config: DataConfig, files: list[SourceFile]) -> Iterator[Document | Skipped]:
    """Every document of the corpus, duplicates included, idioms first and then the files in their order."""
    if config.idioms:
        for text in idiom_documents(config.idioms, config.seed):
            yield Document("idioms", GENERATED, normalize(text))
    for file in files:
        yield read_file(file, config.max_file_bytes)


def read_file(file: SourceFile, max_bytes: int) -> Document | Skipped:
    """The document a file holds, or why it holds none."""
    if file.left_out:
        return Skipped(file.part, file.name, file.left_out)
    try:
        with open_regular(file.path) as opened:
            raw = opened.read(max_bytes + 1)
    except OSError:
        return Skipped(file.part, file.name, "unreadable")
    if len(raw) > max_bytes:
        return Skipped(file.part, file.name, "too large")
    try:
        text = normalize(decode(raw))
    except NotText:
        return Skipped(file.part, file.name, "undecodable")
    return Document(file.part, file.name, text) if text.strip() else Skipped(file.part, file.name, "empty")


def normalize(text: str) -> str:
    """The text with `\\n` at every line end and without a byte order mark."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _walk(root: Path, excluded: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Relative names, with `/`, of the .py files under a folder, sorted, each with the reason to leave it out, if any.

    Folders that are hidden or linked are named and not entered; those of compiled files and `excluded` ones are passed.
    """

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}); make it readable or choose another folder."
        )

    for place, folders, names in os.walk(root, onerror=refuse):
        entered: list[str] = []
        for name in sorted(set(folders) - excluded - {"__pycache__"}):
            path = Path(place) / name
            left_out = HIDDEN if name.startswith(".") else LINKED if path.is_symlink() else ""
            if left_out:
                yield path.relative_to(root).as_posix(), left_out
            else:
                entered.append(name)
        folders[:] = entered
        for name in sorted(names):
            path = Path(place) / name
            if name.endswith(".py"):
                yield path.relative_to(root).as_posix(), "" if path.is_file() else "unreadable"

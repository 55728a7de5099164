"""Whether tokens are still those of their sources: the files as they are now against the manifest."""

import json
from collections import Counter
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from thinwire.data import corpus
from thinwire.data.config import DataConfig
from thinwire.data.corpus import Skipped
from thinwire.errors import UserError
from thinwire.files import open_regular
from thinwire.progress import Report, silent

Line = tuple[str, str, str]
"""Part, name, and the SHA-256 of the text or why there is none."""


def difference(config: DataConfig, manifest: Path, report: Report = silent) -> str | None:
    """How the files that a config selects differ from those of a manifest, in a phrase; None where they do not.

    Texts are compared by their content and files by their names in their folder, so it does not matter where the
    folders are. The generated idioms depend on the config alone. Raises UserError as `list_files` does, and for a
    manifest that is damaged.
    """
    kept, left_out, duplicates = _recorded(manifest)
    files = corpus.list_files(config)
    idioms = duplicates - {digest for _, _, digest in kept}  # a file may have the text of an idiom
    now_kept, now_left_out = _present(config, files, idioms, report)
    if (now_kept, now_left_out) == (kept, left_out):
        return None
    before, now = Counter(kept + left_out), Counter(now_kept + now_left_out)
    gone, new = sorted((before - now).elements()), sorted((now - before).elements())
    names = list(dict.fromkeys(name for _, name, _ in [*new, *gone]))
    if not names:
        return "its sources have another order"
    if len(names) == 1:
        return f"{names[0]} is not what it was built from"
    return f"{names[0]} and {len(names) - 1:,} more are not what it was built from"


def _present(
    config: DataConfig, files: list[corpus.SourceFile], seen: set[str], report: Report
) -> tuple[list[Line], list[Line]]:
    """The files that are kept and left out as building would find them, given the texts that were `seen` before."""
    kept: list[Line] = []
    left_out: list[Line] = []
    for done, file in enumerate(files):
        if done % 64 == 0:
            report(done, len(files), "comparing with the sources")
        found = corpus.read_file(file, config.max_file_bytes)
        if isinstance(found, Skipped):
            if found.reason not in corpus.FOLDERS:
                left_out.append((found.part, found.name, found.reason))
        elif found.digest in seen:
            left_out.append((found.part, found.name, corpus.DUPLICATE))
        else:
            seen.add(found.digest)
            kept.append((found.part, found.name, found.digest))
    return kept, left_out


def _recorded(manifest: Path) -> tuple[list[Line], list[Line], set[str]]:
    """The files that were kept, those that were left out, and the digests of the duplicates among these."""
    kept: list[Line] = []
    left_out: list[Line] = []
    duplicates: set[str] = set()
    for part, name, digest, reason in _lines(manifest):
        if part == "idioms" or reason in corpus.FOLDERS:
            continue
        if not reason:
            kept.append((part, name, digest))
            continue
        left_out.append((part, name, reason))
        duplicates |= {digest} if digest else set()
    return kept, left_out, duplicates


def _lines(manifest: Path) -> Iterator[tuple[str, str, str, str]]:
    """Part, name, SHA-256 of the text, and why it was left out, of each line; an empty text for what a line lacks."""
    keys = "part", "name", "sha256", "skipped"
    try:
        with TextIOWrapper(open_regular(manifest), encoding="utf-8") as file:
            for raw in file:
                line = json.loads(raw)
                part, name, digest, reason = (line.get(key, "") for key in keys)
                if not all(isinstance(value, str) for value in (part, name, digest, reason)):
                    raise ValueError
                yield part, name, digest, reason
    except (OSError, ValueError, AttributeError, RecursionError):
        raise UserError(f"{manifest} is missing or damaged; build the tokens again.") from None

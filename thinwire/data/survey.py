"""The contents of a corpus: every document read once into a spool file, its split, and the manifest."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from thinwire.data import corpus
from thinwire.data.config import DataConfig, Part, Split
from thinwire.data.corpus import Skipped
from thinwire.files import open_regular
from thinwire.progress import Report

BATCH_BYTES = 1_000_000
"""Texts are encoded about this many bytes at a time."""


@dataclass(frozen=True)
class Entry:
    """One document in the spool."""

    part: Part
    name: str
    digest: str
    start: int
    bytes: int


@dataclass
class Survey:
    """The result of reading: the documents kept, in order, and those skipped, with the reason."""

    entries: list[Entry] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def of(self, part: Part) -> list[Entry]:
        """The documents kept of one part."""
        return [entry for entry in self.entries if entry.part == part]


def read_into_spool(config: DataConfig, files: list[corpus.SourceFile], spool: Path, report: Report) -> Survey:
    """Read every distinct document once, and append its text to the spool file."""
    survey, seen, units = Survey(), set(), config.idioms + len(files)
    position = 0
    with open(spool, "wb") as file:
        for done, found in enumerate(corpus.read(config, files)):
            if done % 256 == 0:
                report(done, 2 * units, "reading")
            if isinstance(found, Skipped):
                survey.skipped.append(found)
                continue
            digest = found.digest
            if digest in seen:
                survey.skipped.append(Skipped(found.part, found.name, corpus.DUPLICATE, digest))
                continue
            seen.add(digest)
            raw = found.text.encode("utf-8")
            file.write(raw)
            survey.entries.append(Entry(found.part, found.name, digest, position, len(raw)))
            position += len(raw)
    return survey


def hold_out(survey: Survey, parts: tuple[Part, ...], fraction: float) -> dict[str, Split]:
    """The split of every document by digest: of each part, the fraction with the smallest hashes is held out.

    The choice depends on the documents alone, not on their order; a part of two documents or more always holds one out.
    """
    splits: dict[str, Split] = {entry.digest: "train" for entry in survey.entries}
    for part in parts:
        digests = sorted(entry.digest for entry in survey.of(part))
        count = max(1, round(fraction * len(digests))) if fraction > 0 else 0
        for digest in digests[: min(count, len(digests) - 1)]:
            splits[digest] = "validation"
    return splits


def tokenizer_sample(survey: Survey, parts: tuple[Part, ...], splits: dict[str, Split], max_bytes: int) -> list[Entry]:
    """Of each part, training documents with the largest hashes up to `max_bytes`, in spool order."""
    chosen: list[Entry] = []
    for part in parts:
        total = 0
        for entry in sorted(survey.of(part), key=lambda entry: entry.digest, reverse=True):
            if total >= max_bytes:
                break
            if splits[entry.digest] == "train":
                chosen.append(entry)
                total += entry.bytes
    return sorted(chosen, key=lambda entry: entry.start)


def manifest(config: DataConfig, survey: Survey, splits: dict[str, Split]) -> str:
    """A JSON line for every file, and one for all generated idioms together."""
    lines: list[dict[str, object]] = []
    if idioms := survey.of("idioms"):
        digest = hashlib.sha256("".join(entry.digest for entry in idioms).encode()).hexdigest()
        lines.append(
            {
                "part": "idioms",
                "name": corpus.GENERATED,
                "sha256": digest,
                "bytes": sum(entry.bytes for entry in idioms),
                "count": len(idioms),
                "validation": sum(splits[entry.digest] == "validation" for entry in idioms),
                "duplicates": config.idioms - len(idioms),
                "seed": config.seed,
            }
        )
    for entry in survey.entries:
        if entry.part != "idioms":
            line = {"part": entry.part, "name": entry.name, "sha256": entry.digest, "bytes": entry.bytes}
            lines.append({**line, "split": splits[entry.digest]})
    for left_out in survey.skipped:
        if left_out.part != "idioms":
            digest = {"sha256": left_out.digest} if left_out.digest else {}
            lines.append({"part": left_out.part, "name": left_out.name, "skipped": left_out.reason, **digest})
    return "".join(json.dumps(line) + "\n" for line in lines)


def texts(spool: Path, entries: list[Entry]) -> Iterator[tuple[Entry, str]]:
    """The texts of entries, read back from the spool."""
    with open_regular(spool) as file:
        for entry in entries:
            file.seek(entry.start)
            yield entry, file.read(entry.bytes).decode("utf-8")


def batches(spool: Path, entries: list[Entry]) -> Iterator[list[tuple[Entry, str]]]:
    """Runs of texts of about BATCH_BYTES."""
    batch: list[tuple[Entry, str]] = []
    size = 0
    for entry, text in texts(spool, entries):
        batch.append((entry, text))
        size += entry.bytes
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

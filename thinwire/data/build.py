"""Build a tokens artefact.

1. Read every document once, drop exact duplicates, and copy the texts to a spool file.
2. Hold out documents of every part by their hash.
3. Train the tokenizer on a sample of the training documents, unless one is given.
4. Encode every document into the shards of its part and split.
5. Write the manifest and statistics, and finish the artefact.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from thinwire import artifact
from thinwire.data import corpus
from thinwire.data.config import DataConfig, Part, Split
from thinwire.data.shards import ShardWriter
from thinwire.data.sources import difference
from thinwire.data.survey import Survey, batches, hold_out, manifest, read_into_spool, texts, tokenizer_sample
from thinwire.data.tokenizer import Tokenizer
from thinwire.data.tokens import SPLITS, PartStats, Stats, Tokens
from thinwire.errors import UserError
from thinwire.progress import Note, Report, silent

SPOOL = "spool.txt"


@dataclass(frozen=True)
class Encoded:
    """The shard files written, by name, and their sizes."""

    files: list[str]
    stats: Stats


def build(config: DataConfig, out: Path, report: Report = silent, force: bool = False) -> Tokens:
    """Build the tokens artefact of `config` in `out`, or reuse the finished one there unless `force`.

    Tokens are reused where the config is the same and the sources and the tokenizer have the same content, whatever
    their paths; they are built again where sources have changed. The previous content of `out` is replaced only when
    the new artefact is finished. With the config's `tokenizer`, its `vocab_size` and `tokenizer_bytes` are ignored.
    Raises UserError for finished tokens of another config in `out`, an empty corpus, a tokenizer that cannot be read,
    and when `out` holds anything but tokens.
    """
    out = Path(out)
    given = Tokenizer.load(config.tokenizer) if config.tokenizer else None
    _refuse_unwritable(config)
    _refuse_other_kinds(out)

    def differ(found: Tokens) -> list[str]:
        trained = found.config.tokenizer is None
        other_tokenizer = not trained if given is None else trained or found.tokenizer.id != given.id
        ours = _settings(config, given is None and trained)
        theirs = _settings(found.config, given is None and trained)
        return [name for name in ours if theirs[name] != ours[name]] + ["tokenizer"] * other_tokenizer

    found = None if force else artifact.finished(out, Tokens.open, differ)
    if found and (changed := difference(config, found.artifact.file("manifest.jsonl"), report)):
        report(0, 1, Note(f"{out} is built again: {changed}."))
        force = True
    make = partial(_build, config, given, out, report)
    return artifact.reuse_or_make(out, Tokens.open, differ, make, report, force)


def _settings(config: DataConfig, trained: bool) -> dict[str, object]:
    """The config without paths, which are compared by content, and without the options of a tokenizer that is given."""
    decided = set[str]() if trained else {"vocab_size", "tokenizer_bytes"}
    return config.model_dump(exclude={"folders", "tokenizer"} | decided)


def _build(config: DataConfig, given: Tokenizer | None, out: Path, report: Report) -> Tokens:
    """Build the tokens artefact of `config` in `out`, with the tokenizer that is given, if any."""
    report(0, 1, "listing the sources")
    files = corpus.list_files(config)
    wanted = corpus.parts(config)
    with artifact.replacing(out, "tokens") as folder:
        survey = read_into_spool(config, files, folder / SPOOL, report)
        for part in wanted:
            _require_documents(survey, part)
        splits = hold_out(survey, wanted, config.validation_fraction)
        units = 2 * (config.idioms + len(files))
        tokenizer = given or _train_tokenizer(config, survey, splits, folder, report)
        tokenizer.save(folder / "tokenizer.json")

        def second_half(done: int, of: int, status: str) -> None:
            report(units // 2 + done * (units - 1 - units // 2) // max(of, 1), units, status)

        encoded = encode(config, survey, splits, tokenizer, folder, second_half)
        report(units - 1, units, "writing the manifest")
        (folder / SPOOL).unlink()
        artifact.write_text(folder / "manifest.jsonl", manifest(config, survey, splits))
        artifact.write_text(folder / "stats.json", encoded.stats.model_dump_json(indent=2))
        names = ["tokenizer.json", "manifest.jsonl", "stats.json", *encoded.files]
        artifact.finish(folder, "tokens", config, {}, names, seed=config.seed)
        report(units, units, f"{sum(row.tokens for row in encoded.stats.parts):,} tokens")
    return Tokens.open(out)


def _train_tokenizer(
    config: DataConfig, survey: Survey, splits: dict[str, Split], folder: Path, report: Report
) -> Tokenizer:
    """Train the tokenizer on a sample of the training documents in the spool."""
    half = len(survey.entries) + len(survey.skipped)
    sample = tokenizer_sample(survey, corpus.parts(config), splits, config.tokenizer_bytes)
    total = sum(entry.bytes for entry in sample)

    def read() -> Iterator[str]:
        for number, (_, text) in enumerate(texts(folder / SPOOL, sample)):
            if number % 256 == 0:
                report(half, 2 * half, f"training the tokenizer on {total / 1e6:,.1f} MB")
            yield text

    return Tokenizer.train(read(), config.vocab_size)


def encode(
    config: DataConfig, survey: Survey, splits: dict[str, Split], tokenizer: Tokenizer, folder: Path, report: Report
) -> Encoded:
    """Write the shards of every part and split, empty ones included."""
    done, total = 0, sum(entry.bytes for entry in survey.entries)
    n_bytes: Counter[tuple[Part, Split]] = Counter()
    writers: dict[tuple[Part, Split], ShardWriter] = {}
    with ExitStack() as stack:
        for part in corpus.parts(config):
            for split in SPLITS:
                writer = ShardWriter(folder, f"{part}.{split}", config.shard_tokens)
                writers[part, split] = stack.enter_context(writer)
        for batch in batches(folder / SPOOL, survey.entries):
            for (entry, _), ids in zip(batch, tokenizer.encode_batch([text for _, text in batch]), strict=True):
                key = entry.part, splits[entry.digest]
                writers[key].add(ids, tokenizer.end_of_text)
                n_bytes[key] += entry.bytes
                done += entry.bytes
            report(done, total, f"encoding, {done / 1e6:,.1f} of {total / 1e6:,.1f} MB")
    rows = tuple(
        PartStats(
            part=part,
            split=split,
            documents=len(writer.offsets) - 1,
            tokens=writer.offsets[-1],
            bytes=n_bytes[part, split],
        )
        for (part, split), writer in writers.items()
    )
    skipped = Counter(left_out.reason for left_out in survey.skipped)
    stats = Stats(
        vocab_size=tokenizer.vocab_size, tokenizer=tokenizer.id, parts=rows, skipped=dict(sorted(skipped.items()))
    )
    return Encoded([name for writer in writers.values() for name in writer.files], stats)


def _refuse_other_kinds(out: Path) -> None:
    """Raise UserError when `out` holds the config of another stage, which tokens must not replace."""
    if (out / "config.json").exists():
        try:
            DataConfig.load(out / "config.json")
        except UserError:
            raise UserError(f"{out} holds something else than tokens; choose another --out.") from None


def _refuse_unwritable(config: DataConfig) -> None:
    """Raise UserError, before any work, for paths that the artefact's config cannot name."""
    for path in (*config.folders, *([config.tokenizer] if config.tokenizer else [])):
        try:
            str(path).encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"The name of {path} is not UTF-8, which an artefact cannot record; rename it.") from None


def _require_documents(survey: Survey, part: Part) -> None:
    """Raise UserError when no document of a part was usable."""
    if not survey.of(part):
        said = corpus.counted(Counter(out.reason for out in survey.skipped if out.part == part)) or "nothing found"
        raise UserError(f"No document of the {part} could be used ({said}); give other sources or leave the part out.")

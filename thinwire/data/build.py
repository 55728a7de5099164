"""Build a tokens artefact.

1. Read every document once, drop exact duplicates, and copy the texts to a spool file.
2. Hold out documents of every part by their hash.
3. Train the tokenizer on a sample of the training documents, unless one is given.
4. Encode every document into the shards of its part and split.
5. Write the manifest and statistics, and finish the artefact.
"""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from thinwire import artifact
from thinwire.data import corpus
from thinwire.data.config import DataConfig, Part, Split
from thinwire.data.shards import ShardWriter
from thinwire.data.survey import Survey, batches, hold_out, manifest, read_into_spool, texts, tokenizer_sample
from thinwire.data.tokenizer import Tokenizer
from thinwire.data.tokens import SPLITS, PartStats, Stats, Tokens
from thinwire.errors import UserError
from thinwire.progress import Report, silent

SPOOL = "spool.txt"


@dataclass(frozen=True)
class Encoded:
    """The shard files written, by name, and their sizes."""

    files: list[str]
    stats: Stats


def build(config: DataConfig, out: Path, report: Report = silent, force: bool = False) -> Tokens:
    """Build the tokens artefact of `config` in `out`, or reuse the finished one there unless `force`.

    The previous content of `out` is replaced only when the new artefact is finished. With the config's `tokenizer`,
    its `vocab_size` and `tokenizer_bytes` are ignored.
    Raises UserError for an empty corpus, a tokenizer that cannot be read, and when `out` holds anything but tokens.
    """
    out = Path(out)
    given = Tokenizer.load(config.tokenizer) if config.tokenizer else None
    _refuse_other_kinds(out)

    def fits(found: Tokens) -> bool:
        return found.config == config and (given is None or found.tokenizer.id == given.id)

    def find() -> Tokens | None:
        return artifact.finished(out, Tokens.open, fits)

    return artifact.reuse_or_make(out, find, lambda: _build(config, given, out, report), report, force)


def _build(config: DataConfig, given: Tokenizer | None, out: Path, report: Report) -> Tokens:
    """Build the tokens artefact of `config` in `out`, with the tokenizer that is given, if any."""
    files = corpus.list_files(config)
    wanted = corpus.parts(config)
    with artifact.replacing(out, "tokens") as folder:
        survey = read_into_spool(config, files, folder / SPOOL, report)
        for part in wanted:
            _require_documents(survey, part)
        splits = hold_out(survey, wanted, config.validation_fraction)
        units = 2 * (config.idioms + len(files))
        tokenizer = given
        if tokenizer is None:
            report(units // 2, units, "training the tokenizer")
            sample = tokenizer_sample(survey, wanted, splits, config.tokenizer_bytes)
            tokenizer = Tokenizer.train((text for _, text in texts(folder / SPOOL, sample)), config.vocab_size)
        tokenizer.save(folder / "tokenizer.json")

        def second_half(done: int, of: int, status: str) -> None:
            report(units // 2 + done * (units // 2) // of, units, status)

        encoded = encode(config, survey, splits, tokenizer, folder, second_half)
        (folder / SPOOL).unlink()
        artifact.write_text(folder / "manifest.jsonl", manifest(config, survey, splits))
        artifact.write_text(folder / "stats.json", encoded.stats.model_dump_json(indent=2))
        names = ["tokenizer.json", "manifest.jsonl", "stats.json", *encoded.files]
        artifact.finish(folder, "tokens", config, {}, names, seed=config.seed)
        report(units, units, f"{sum(row.tokens for row in encoded.stats.parts):,} tokens")
    return Tokens.open(out)


def encode(
    config: DataConfig, survey: Survey, splits: dict[str, Split], tokenizer: Tokenizer, folder: Path, report: Report
) -> Encoded:
    """Write the shards of every part and split, empty ones included."""
    done = 0
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
            done += len(batch)
            report(done, len(survey.entries), "encoding")
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


def _require_documents(survey: Survey, part: Part) -> None:
    """Raise UserError when no document of a part was usable."""
    if not survey.of(part):
        reasons = Counter(left_out.reason for left_out in survey.skipped if left_out.part == part)
        said = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "nothing found"
        raise UserError(f"No document of the {part} could be used ({said}); give other sources or leave the part out.")

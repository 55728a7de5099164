"""thinwire data: collect a corpus, train a tokenizer, write token shards."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from thinwire.cli.common import chosen_config, command, emit, parse, progress
from thinwire.cli.reuse import Watched
from thinwire.data.config import DataConfig
from thinwire.display import visible
from thinwire.progress import duration

if TYPE_CHECKING:
    from thinwire.data import Tokens


@dataclass(frozen=True)
class Args:
    """Collect a corpus, train a tokenizer, write token shards. Finished tokens of the same config and sources are
    reused; sources are compared by content, whatever their path.

    --config FILE takes the options below from a JSON file; options on the command line win.
    """

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the tokens artefact, such as runs/mine/tokens."""
    config: Annotated[DataConfig, tyro.conf.arg(name="")]
    force: bool = False
    """Build again, and replace finished tokens, whatever their options."""
    json: bool = False
    """End stdout with one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    default, rest = chosen_config(DataConfig, argv, DataConfig())
    args = parse(Args, rest, "data", Args(tyro.MISSING, default))
    from thinwire.data import build

    began = time.perf_counter()
    with progress("tokens") as report:
        watched = Watched(report)
        tokens = build(args.config, args.out, watched, force=args.force)
    stats = tokens.stats
    values: dict[str, object] = {
        "out": str(args.out),
        "vocab_size": tokens.tokenizer.vocab_size,
        "tokenizer": tokens.tokenizer.id,
        **{f"{row.part}_{row.split}_documents": row.documents for row in stats.parts},
        **{f"{row.part}_{row.split}_tokens": row.tokens for row in stats.parts},
        "left_out": stats.skipped,
        "reused": watched.reused,
    }
    seconds = time.perf_counter() - began
    emit(values | {"seconds": seconds}, args.json, summary(args.out, tokens, seconds))


def summary(out: Path, tokens: "Tokens", seconds: float) -> str:
    """The tokens for reading, and what to run next."""
    stats = tokens.stats
    lines = [f"tokens      {out}", f"vocabulary  {tokens.tokenizer.vocab_size:,} tokens"]
    lines += [f"{f'{row.part} {row.split}':<22}{row.tokens:>14,} tokens" for row in stats.parts]
    left_out = f"{stats.left_out} (named in {out / 'manifest.jsonl'})" if stats.skipped else "nothing"
    lines += [f"left out    {left_out}", f"time        {duration(seconds)}", "", "Next:"]
    vocabulary = tokens.tokenizer.vocab_size
    shape = () if vocabulary == DataConfig().vocab_size else ("--model.vocab-size", vocabulary)
    return "\n".join([*map(visible, lines), command("train", out, "--out", out.parent / "model", *shape)])

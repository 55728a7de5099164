"""What a tokens artefact consists of, and the mixture in which training reads it."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from thinwire.artifact import FORMATS, Format
from thinwire.config import Config

MAX_VOCAB = 65_535
"""Largest vocabulary: token ids are stored as uint16."""
MIN_VOCAB = 257
"""Smallest vocabulary: the 256 bytes and the end of text."""

Part = Literal["idioms", "stdlib", "folders"]
"""The parts that a corpus can have, in the order they are read."""
Split = Literal["train", "validation"]
MAX_IDIOMS = 10_000_000
"""Most generated documents: hours of work, and about 3 GB of text."""
MAX_FILE_BYTES = 2**30
"""Largest file that may be asked for: it is read as a whole."""
FORMATS.register("tokens")(
    Format(version=1, files=("tokenizer.json", "manifest.jsonl", "stats.json", "*.bin", "*.offsets.npy"))
)


class DataConfig(Config):
    """Corpus, tokenizer and mixture of a tokens artefact."""

    idioms: int = Field(default=30_000, ge=0, le=MAX_IDIOMS)
    """Number of generated documents of simple, repetitive Python idioms; 0 leaves the part out."""
    stdlib: bool = True
    """Read the standard library of the running interpreter: its sources without tests and tables, about 10 MB."""
    folders: tuple[Path, ...] = ()
    """Folders whose .py files are read, recursively; hidden and linked folders and __pycache__ are not entered."""
    idioms_weight: float = Field(default=0.8, ge=0, le=1e9)
    """Share of training windows drawn from the idioms, relative to the other parts that are present."""
    stdlib_weight: float = Field(default=0.2, ge=0, le=1e9)
    """Share of training windows drawn from the standard library, relative to the other parts that are present."""
    folders_weight: float = Field(default=0.2, ge=0, le=1e9)
    """Share of training windows drawn from the folders, relative to the other parts that are present."""
    document_start: float = Field(default=0.5, ge=0, le=1)
    """Probability that a training window begins at the start of a random document; otherwise at a uniform offset."""
    vocab_size: int = Field(default=2048, ge=MIN_VOCAB, le=MAX_VOCAB)
    """Tokens of the byte-level BPE; a very small corpus may yield fewer."""
    tokenizer: Path | None = None
    """A model (folder or shipped name), tokens, or a tokenizer.json: use its tokenizer instead of training one."""
    tokenizer_bytes: int = Field(default=4_000_000, ge=1, lt=2**63)
    """The tokenizer is trained on training documents up to about this many bytes of each part."""
    max_file_bytes: int = Field(default=1_000_000, ge=1, le=MAX_FILE_BYTES)
    """Larger files are skipped: they are usually tables or generated data."""
    validation_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of each part's documents that is held out, at least one document where a part has two or more."""
    shard_tokens: int = Field(default=100_000_000, ge=1, lt=2**63)
    """Largest number of tokens of a shard file, except for a file of one longer document."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the generated idioms."""

    def weight(self, part: Part) -> float:
        """The mixture weight of a part, not normalized."""
        return {"idioms": self.idioms_weight, "stdlib": self.stdlib_weight, "folders": self.folders_weight}[part]

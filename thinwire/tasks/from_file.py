"""A task from a file of pairs in JSON Lines format, one pair in each line.

    {"prompts": ["The keys are", "The key is"], "answers": [" here", " there"], "split": "train"}

An empty answer means any token but the other answer. If no line names its split, each pair gets one by its hash: 60%
train, 20% validation, 20% held-out. Blank lines are ignored.
"""

import errno
import hashlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self
from zlib import crc32

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from thinwire.config import explain
from thinwire.data.words import SPLITS, Split
from thinwire.errors import UserError
from thinwire.files import read_bytes
from thinwire.tasks.batch import Pair
from thinwire.tasks.task import Task, check_name

MAX_BYTES = 2**24
MAX_LINE_BYTES = 2**16
MIN_PAIRS = 8
"""Smallest number of different pairs in each split."""
FORM = '{"prompts": ["…", "…"], "answers": ["…", "…"]}'
Numbered = dict[int, "Line"]
"""The lines of a file by their numbers, from 1."""


class Line(BaseModel):
    """One line of a file of pairs."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    prompts: tuple[Annotated[str, Field(min_length=1)], Annotated[str, Field(min_length=1)]]
    answers: tuple[str, str]
    split: Split | None = None

    @model_validator(mode="after")
    def _differ(self) -> Self:
        for name, (one, other) in (("prompts", self.prompts), ("answers", self.answers)):
            if one == other:
                raise ValueError(f"the two {name} are the same")
        return self

    @property
    def pair(self) -> Pair:
        return Pair(self.prompts, self.answers)

    def by_hash(self) -> Split:
        """The split that is computed from the pair's hash."""
        share = crc32(json.dumps([self.prompts, self.answers]).encode()) % 10
        return "train" if share < 6 else "validation" if share < 8 else "heldout"


def task_from_file(path: Path | str) -> Task:
    """The task of a JSON Lines file of pairs, named by the file's stem. No pair repeats before all others were drawn.

    Raises UserError for an invalid line, with its number (not UTF-8, not JSON, a missing or unknown key, equal prompts
    or answers, a prompt in two splits), and for a file that is too large, has too few pairs, or an invalid name.
    """
    path = Path(path)
    check_name(path.stem, "rename the file")
    content = _read(path)
    lines = _parse(content, path)
    splits = _splits(lines, path)
    pairs = {split: tuple({line.pair: None for n, line in lines.items() if splits[n] == split}) for split in SPLITS}
    for split, found in pairs.items():
        if len(found) < MIN_PAIRS:
            raise UserError(
                f"{path} has {len(found)} different pairs for the {split} split and needs {MIN_PAIRS}; "
                'add lines, or name the "split" of every line.'
            )

    def draw(rng: random.Random, split: Split) -> Iterator[Pair]:
        while True:
            yield from rng.sample(pairs[split], len(pairs[split]))

    return Task(path.stem, "the choice that a file of pairs defines", draw, hashlib.sha256(content).hexdigest()[:16])


def _read(path: Path) -> bytes:
    remedy = "give a JSON Lines file of pairs"
    try:
        return read_bytes(path, MAX_BYTES)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise UserError(f"{path} is larger than {MAX_BYTES >> 20} MiB; give a part of its lines.") from None
        if os.path.exists(path) and not os.path.isfile(path):
            raise UserError(f"{path} is not a file; {remedy}.") from None
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}.") from None


def _parse(content: bytes, path: Path) -> Numbered:
    lines: Numbered = {}
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        where = f"Line {number} of {path}"
        if len(raw) > MAX_LINE_BYTES:
            raise UserError(f"{where} is longer than {MAX_LINE_BYTES >> 10} KiB; shorten its prompts.")
        if not raw.strip():
            continue
        try:
            lines[number] = Line.model_validate_json(raw.decode("utf-8"))
        except UnicodeDecodeError:
            raise UserError(f"{where} is not UTF-8 text; save the file as UTF-8.") from None
        except ValidationError as error:
            why = explain(error).replace(" at line 1 column", " at column")
            raise UserError(f"{where}: {why[:200]}; write {FORM} there.") from None
    return lines


def _splits(lines: Numbered, path: Path) -> dict[int, Split]:
    """The split of each line. Raises UserError if only some lines name theirs, or a prompt is in two splits."""
    named = {number: line.split for number, line in lines.items() if line.split is not None}
    bare = next((number for number in lines if number not in named), None)
    if named and bare is not None:
        raise UserError(f'Line {bare} of {path} names no split and line {min(named)} does; give every line a "split".')
    splits: dict[int, Split] = {number: line.split or line.by_hash() for number, line in lines.items()}
    first: dict[str, int] = {}
    for number, line in lines.items():
        for prompt in line.prompts:
            earlier = first.setdefault(prompt, number)
            if splits[earlier] != splits[number]:
                raise UserError(
                    f"Lines {earlier} and {number} of {path} share a prompt and are in different splits "
                    f'({splits[earlier]}, {splits[number]}); drop one, or give every line a "split".'
                )
    return splits

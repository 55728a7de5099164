"""A task from a file of pairs in JSON Lines format, one pair in each line.

    {"prompts": ["The keys are", "The key is"], "answers": [" here", " there"], "split": "train"}

An empty answer means any token but the other answer. If no line names its split, 60% of the pairs are for training, 20%
for validation, 20% held out; lines that share a prompt stay together. Blank lines are ignored.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from thinwire.data.words import SPLITS, Split
from thinwire.errors import UserError
from thinwire.tasks.batch import Pair
from thinwire.tasks.lines import parse_lines, read_content
from thinwire.tasks.splits import Group, divided, groups_of
from thinwire.tasks.task import SHOWN, Lines, Task, check_name

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


def task_from_file(path: Path | str) -> Task:
    """The task of a JSON Lines file of pairs, named by the file's stem. No pair repeats.

    Raises UserError for an invalid line, with its number (not UTF-8, not JSON, a missing, unknown or repeated key,
    equal prompts or answers, a prompt in two splits), for lines that cannot be divided among the splits, and for a file
    that is too large, has too few pairs, or an invalid name.
    """
    path = Path(path)
    check_name(path.stem, "rename the file")
    content = read_content(path, "pairs")
    lines = parse_lines(content, path, Line, FORM)
    if not lines:
        raise UserError(f"{path} has no lines; write {FORM} there, once for each pair.")
    splits = _splits(lines, path)
    held: dict[Split, Lines] = {}
    pairs: dict[Split, tuple[Pair, ...]] = {}
    for split in SPLITS:
        own = [line.pair for number, line in lines.items() if splits[number] == split]
        pairs[split] = tuple(dict.fromkeys(own))
        held[split] = Lines(len(own), len(own) - len(pairs[split]))

    def draw(rng: random.Random, split: Split) -> Iterator[Pair]:
        yield from rng.sample(pairs[split], len(pairs[split]))

    source = hashlib.sha256(content).hexdigest()[:16]
    return Task(path.stem, "the choice that a file of pairs defines", draw, source, lines=held)


def _splits(lines: Numbered, path: Path) -> dict[int, Split]:
    """The split of each line: the named one, or one for all lines that share prompts."""
    named: dict[int, Split] = {number: line.split for number, line in lines.items() if line.split is not None}
    bare = next((number for number in lines if number not in named), None)
    if bare is None:
        _check_named(lines, named, path)
        return named
    if named:
        raise UserError(f'Line {bare} of {path} names no split and line {min(named)} does; give every line a "split".')
    groups = groups_of({number: line.pair for number, line in lines.items()})
    splits = divided(groups, MIN_PAIRS)
    for split in SPLITS:
        found = sum(group.size for group in groups if splits[group.lines[0]] == split)
        if found < MIN_PAIRS:
            raise UserError(_indivisible(groups, path) or _too_few(found, split, path))
    return splits


def _check_named(lines: Numbered, named: Mapping[int, Split], path: Path) -> None:
    """Raise UserError where a prompt is in two splits, or a split has too few different pairs."""
    first: dict[str, int] = {}
    for number, line in lines.items():
        for prompt in line.prompts:
            earlier = first.setdefault(prompt, number)
            if named[earlier] != named[number]:
                raise UserError(
                    f"Lines {earlier} and {number} of {path} share a prompt and are in different splits "
                    f"({named[earlier]}, {named[number]}); drop one, or name the same split in both."
                )
    for split in SPLITS:
        found = len({line.pair for line in lines.values() if line.split == split})
        if found < MIN_PAIRS:
            raise UserError(_too_few(found, split, path))


def _too_few(found: int, split: Split, path: Path) -> str:
    return (
        f"{path} has {found} different pairs for the {split} split and needs {MIN_PAIRS}; "
        'add lines, or name the "split" of every line.'
    )


def _indivisible(groups: Sequence[Group], path: Path) -> str:
    """Why shared prompts leave no three splits of enough pairs; empty where it is for want of pairs."""
    total = sum(group.size for group in groups)
    if total < len(SPLITS) * MIN_PAIRS:
        return ""
    largest = max(groups, key=lambda group: group.size)
    shared = f"the prompt {largest.prompt[-SHOWN:]!r}"
    remedy = f"add pairs with other prompts, {MIN_PAIRS} for each split"
    if len(groups) == 1:
        how = f"share {shared}" if largest.sharing == total else "are joined by prompts that they share"
        return f"All lines of {path} {how}, so no split can be without prompts of another; {remedy}."
    return (
        f"The {total} pairs of {path} form {len(groups)} groups of lines that share prompts, and these cannot be "
        f"divided into {len(SPLITS)} splits of {MIN_PAIRS} pairs ({largest.sharing} share {shared}); {remedy}."
    )

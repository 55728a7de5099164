"""Divides the lines of a file of pairs among the splits, so that no two splits share a prompt.

1. Lines that share a prompt, directly or through other lines, form a group.
2. A group gets its split by a hash: of its pair if it has one pair, else of the prompt that most of its lines share.
   So a group keeps its split when lines are added.
3. Where that leaves a split with too few pairs, all groups are dealt out again, largest first, each to the split that
   lacks most.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

from thinwire.data.words import SPLITS, Split
from thinwire.tasks.batch import Pair

SHARES: dict[Split, int] = {"train": 6, "validation": 2, "heldout": 2}
"""Tenths of the pairs that each split gets."""


@dataclass(frozen=True)
class Group:
    """Lines that share prompts."""

    lines: tuple[int, ...]
    """Their numbers, rising."""
    size: int
    """Number of different pairs."""
    prompt: str
    """The prompt that most of its pairs share."""
    sharing: int
    """Number of those pairs."""
    hash: int

    @property
    def split(self) -> Split:
        """The split that the hash gives."""
        share = self.hash % 10
        return "train" if share < 6 else "validation" if share < 8 else "heldout"


def groups_of(pairs: Mapping[int, Pair]) -> list[Group]:
    """The groups of lines that share prompts, in the order of their first lines; `pairs` are by line number."""
    root: dict[int, int] = {}
    first: dict[str, int] = {}

    def find(line: int) -> int:
        while root[line] != line:
            root[line] = line = root[root[line]]
        return line

    for number, pair in pairs.items():
        root[number] = number
        for prompt in pair.prompts:
            one, other = find(first.setdefault(prompt, number)), find(number)
            root[max(one, other)] = min(one, other)
    members: dict[int, list[int]] = {}
    for number in pairs:
        members.setdefault(find(number), []).append(number)
    return [_group(lines, pairs) for lines in members.values()]


def _group(lines: Sequence[int], pairs: Mapping[int, Pair]) -> Group:
    pair = pairs[lines[0]]
    different = {pairs[number] for number in lines}
    if len(different) == 1:
        key = json.dumps([pair.prompts, pair.answers])
        return Group(tuple(lines), 1, pair.prompts[0], 1, crc32(key.encode()))
    counts = Counter(prompt for each in different for prompt in each.prompts)
    prompt = min(counts, key=lambda text: (-counts[text], text))
    return Group(tuple(lines), len(different), prompt, counts[prompt], crc32(json.dumps(prompt).encode()))


def divided(groups: Sequence[Group], least: int) -> dict[int, Split]:
    """The split of each line, such that each split gets `least` different pairs if it can be done."""
    splits: list[Split] = [group.split for group in groups]
    if min(_sizes(groups, splits).values()) < least:
        splits = _dealt(groups, least)
    return {number: split for group, split in zip(groups, splits, strict=True) for number in group.lines}


def _sizes(groups: Sequence[Group], splits: Sequence[Split]) -> dict[Split, int]:
    sizes: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    for group, split in zip(groups, splits, strict=True):
        sizes[split] += group.size
    return sizes


def _dealt(groups: Sequence[Group], least: int) -> list[Split]:
    """Every group, largest first, goes to the split that is short of most pairs, or then furthest below its share."""
    sizes: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    found: dict[int, Split] = {}
    for place in sorted(range(len(groups)), key=lambda at: (-groups[at].size, groups[at].hash, groups[at].prompt)):
        split = min(SPLITS, key=lambda name: (min(sizes[name], least), sizes[name] / SHARES[name]))
        found[place] = split
        sizes[split] += groups[place].size
    return [found[place] for place in range(len(groups))]

"""How text is split into units before merging, and the shapes of text for which that needs care."""

import re
from collections.abc import Iterator

from tokenizers import Regex, pre_tokenizers

PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How text is split before merging (Gao et al. 2025); merges never cross a split."""
MAX_UNIT = 256
"""Longest unit that a tokenizer is trained on, in characters; the longest of the standard library has 82.

Training takes a time that grows with the square of a unit's length, and learns the unit by heart.
"""
BLOCK = 2**18
"""Longer texts are encoded in blocks of about this many characters."""
_PROBE = MAX_UNIT // 2 - 1
# a unit is at most one character of any kind, and then letters, or no letters and digits at all
_LONG = re.compile(rf"[^A-Za-z0-9]{{{_PROBE}}}|[A-Za-z0-9\x80-\U0010ffff]{{{_PROBE}}}")
_END = re.compile(r"[A-Za-z0-9](?=[\x00-/:-@\[-`{-\x7f])|\n(?=[!-.0-~])")
"""A place where every split has a boundary: behind an ASCII word, and before a line that starts with a printable."""


def splitter() -> pre_tokenizers.Split:
    """The library's splitter for PATTERN."""
    return pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")


def blocks(text: str, size: int = BLOCK) -> Iterator[str]:
    """A text in blocks, cut where a unit ends, so that they encode to the same tokens as the whole.

    Each has about `size` characters, and more where no unit is sure to end.
    """
    start = 0
    while len(text) - start > size and (end := _END.search(text, start + size - 1)):
        yield text[start : end.end()]
        start = end.end()
    yield text[start:]


def without_long_units(text: str) -> Iterator[str]:
    """The text, or what is between its units of more than MAX_UNIT characters."""
    for block in blocks(text):
        if not _may_have_long_units(block):
            yield block
            continue
        start = 0
        for unit, (begin, end) in splitter().pre_tokenize_str(block):
            if len(unit) > MAX_UNIT:
                yield block[start:begin]
                start = end
        yield block[start:]


def _may_have_long_units(text: str) -> bool:
    """Whether a text may have units of more than MAX_UNIT characters; it is read at a few places only."""
    return any(_LONG.match(text, place) for place in range(0, len(text) - _PROBE + 1, _PROBE))

"""The text of a Python source file, by the encoding that the file declares."""

import codecs
import io
import tokenize

NOT_FOR_SOURCES = frozenset({"idna", "punycode"})
"""Codecs of host names, which take a time that grows with the square of the text."""


class NotText(ValueError):
    """Bytes that are not text of the encoding that they declare."""


def decode(raw: bytes) -> str:
    """The text of Python source bytes, by their byte order mark or their declaration (PEP 263), by default UTF-8.

    Raises NotText for bytes that are not text of this encoding, and for a declaration that is unknown or untrue.
    """
    try:
        name, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        if name not in ("utf-8", "utf-8-sig") and not _suits_sources(name):
            raise NotText(name)
        text = raw.decode(name)
        text.encode("utf-8")  # some codecs make half a surrogate pair, which no shard can hold
    except (SyntaxError, LookupError, ValueError) as error:
        raise NotText(str(error)) from None
    return text


def _suits_sources(name: str) -> bool:
    """Whether a codec extends ASCII, so that it can read the declaration that names it, and takes linear time."""
    return codecs.lookup(name).name not in NOT_FOR_SOURCES and b"coding".decode(name) == "coding"

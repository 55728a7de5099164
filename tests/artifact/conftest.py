"""Formats of these tests, and a finished artefact."""

from pathlib import Path

import pytest
from soup import make

from thinwire.artifact import FORMATS, Format


@pytest.fixture(autouse=True)
def formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Formats of these tests alone: soup and stew, and models, which may be shipped."""
    monkeypatch.setattr(FORMATS, "_entries", {})
    for kind in ("soup", "stew"):
        FORMATS.register(kind)(Format(version=1, files=("sub/*.txt",)))
    FORMATS.register("model")(Format(version=1, files=(), shipped=True, in_place=True))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    make(tmp_path / "made")
    return tmp_path / "made"

"""An artefact of a format that only these tests have."""

import json
from pathlib import Path

import pytest
from pydantic import Field

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.config import Config
from thinwire.errors import UserError


class Recipe(Config):
    """A config for these tests."""

    size: int = Field(default=3, ge=1)
    """How big."""
    name: str = "soup"
    """What it is."""


def make(folder: Path, text: str = "data", kind: str = "soup", parents: dict[str, Artifact] | None = None) -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub/data.txt").write_text(text)
    return artifact.finish(folder, kind, Recipe(size=5), parents or {}, ["sub/data.txt"], seed=7)


def refused(folder: Path, match: str, kind: str = "soup") -> None:
    with pytest.raises(UserError, match=match) as caught:
        artifact.open_artifact(folder, kind)
    message = str(caught.value)
    assert message.endswith((".", "(it has no meta.json)."))
    assert "\n" not in message
    assert str(folder) in message


def edit_meta(folder: Path, **changes: object) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | changes))

"""Models that come with the package: ordinary model artefacts, called by the names of their folders.

Such a name works wherever a model folder is opened; a folder of the same name in the current folder takes precedence.
"""

import os
from pathlib import Path


def root() -> Path:
    """Folder of the shipped models: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).parent
    inside = package / "models"
    return inside if inside.is_dir() else package.parent / "models"


def names(place: Path | None = None) -> tuple[str, ...]:
    """Names of the shipped models, sorted. `place` replaces `root()`."""
    place = place or root()
    return tuple(sorted(path.parent.name for path in place.glob("*/meta.json")))


def find(model: Path | str, place: Path | None = None) -> Path:
    """The folder of a model given by its path or by its shipped name; any other path is returned unchanged."""
    path = Path(model)
    if os.path.exists(path) or len(path.parts) != 1 or path.name not in names(place):
        return path
    return (place or root()) / path.name


def name_of(model: Path | str, place: Path | None = None) -> str | None:
    """The name of a shipped model given by its name or by its folder; None for any other model."""
    place = place or root()
    folder = find(model, place).resolve()
    return folder.name if folder.parent == place.resolve() and folder.name in names(place) else None

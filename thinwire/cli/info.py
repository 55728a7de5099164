"""thinwire info: describe an artefact folder or a workspace, or list the shipped models."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table

from thinwire import artifact, shipped
from thinwire.cli.common import emit, number, parse, plain, size
from thinwire.cli.details import DETAILS
from thinwire.errors import UserError
from thinwire.progress import duration


@dataclass(frozen=True)
class Args:
    """Describe an artefact folder: its contents, its parents, and whether its files are whole.

    Given a workspace, such as the folder that quickstart or bridge makes, list the artefacts in it. Without a folder:
    list the models that come with the package.
    """

    folder: tyro.conf.Positional[Path | None] = None
    """Folder of an artefact, such as tokens, a model, a circuit, a verdict or a bridge; a workspace; or the name of a
    shipped model."""
    json: bool = False
    """End stdout with one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "info")
    if args.folder is None:
        list_shipped(args.json)
        return
    folder = shipped.find(args.folder)
    if not artifact.is_finished(folder) and (found := contents(folder)):
        emit(*listing(folder, found, args.json))
        return
    kind = kind_of(folder)
    details = DETAILS[kind](folder) if kind in DETAILS else {}  # imports the room that registers the format
    found = artifact.open_artifact(folder, kind)
    meta = found.meta
    values: dict[str, object] = {
        "out": str(folder),
        "kind": kind,
        "id": found.id,
        "format": meta.version,
        "thinwire": meta.thinwire,
        "seed": meta.seed,
        **{f"parent {name}": parent for name, parent in meta.parents.items()},
        "bytes": sum(entry.bytes for entry in meta.files.values()),
    }
    emit(values | details, args.json, with_units(values | details))


def list_shipped(as_json: bool) -> None:
    """Print name, size and loss of every shipped model."""
    from thinwire.model.config import ModelConfig
    from thinwire.train.result import read_result

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("model", no_wrap=True)
    for title in ("nonzero weights", "of", "bigram table", "validation loss", "size"):
        table.add_column(title, justify="right")
    rows: list[dict[str, object]] = []
    for name in shipped.names():
        result, found = read_result(name), artifact.open_artifact(Path(name), "model")
        held = sum(entry.bytes for entry in found.meta.files.values())
        counts = result.weights(ModelConfig.load(found.file("model.json")))
        row = {"name": name, **asdict(counts), "val_loss": result.val_loss}
        rows.append(row | {"bytes": held, "out": str(found.path)})
        sizes = (counts.nonzeros, counts.entries, counts.bigram)
        table.add_row(name, *map("{:,}".format, sizes), f"{result.val_loss:.3f} nats", size(held))
    emit({"models": rows}, as_json, table if rows else "This installation has no shipped models.")


def contents(folder: Path) -> list[Path]:
    """The places of the artefacts, and of the page, in a workspace; empty for any other folder."""
    if not folder.is_dir() or (folder / "config.json").exists():
        return []
    places = [folder / name for name in ("tokens", "model", "ridge", "maps", "joint", "scratch")]
    for kind in ("circuits", "verdicts", "runs"):
        places += sorted((folder / kind).iterdir()) if (folder / kind).is_dir() else []
    found = [place for place in places if artifact.is_finished(place) or (place / "config.json").is_file()]
    return [*found, *(page for page in [folder / "index.html"] if found and page.is_file())]


def listing(folder: Path, places: list[Path], as_json: bool) -> tuple[dict[str, object], bool, Table]:
    """What `emit` prints of a workspace: an object, and a row for everything in it."""
    table = Table(
        title=f"workspace {folder}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    table.add_column("place", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("contents", overflow="fold")
    rows: list[dict[str, object]] = []
    present: dict[str, set[str]] = {}
    alien = alien_stages(folder, places)
    for place in places:
        name, text = str(place.relative_to(folder)), "page; open it in a browser"
        held = place.stat().st_size
        row: dict[str, object] = {"place": name, "kind": "page"}
        if place.is_dir() and not artifact.is_finished(place):
            held, text, row = 0, "unfinished; run the command that makes it again", {"place": name, "kind": None}
        elif place.is_dir():
            kind = kind_of(place)
            details = DETAILS[kind](place) if kind in DETAILS else {}
            found = artifact.open_artifact(place, kind)
            held = sum(entry.bytes for entry in found.meta.files.values())
            present.setdefault(kind, set()).add(found.id)
            text, row = in_short(kind, details), {"place": name, "kind": kind, "id": found.id} | details
            role = OWNERS.get(kind, "")
            if role and found.meta.parents.get(role) not in present.get(role, set()):
                text, row = f"{text} (of a {role} that is not here)", row | {"foreign": role}
            if name in alien:
                text = f"{text} (of another fit than the stage before; fit again with --force)"
                row |= {"foreign": "stage"}
        rows.append(row | {"bytes": held})
        table.add_row(name, size(held) if held else "", text)
    return {"out": str(folder), "kind": "workspace", "artifacts": rows}, as_json, table


def alien_stages(folder: Path, places: list[Path]) -> list[str]:
    """Names of the stages of a bridge that do not come from the stage before."""
    if folder / "ridge" not in places:
        return []
    from thinwire.stages.bridge_folders import mixed

    return [*mixed(folder)]


def in_short(kind: str, details: dict[str, object]) -> str:
    """An artefact in a few words, by what `info` prints of it."""
    named = {name: number(value) for name, value in details.items() if value is not None}
    if kind == "tokens":
        total = sum(count for name, count in details.items() if name.endswith(" tokens") and isinstance(count, int))
        return f"{total:,} tokens, vocabulary {named['vocab_size']}"
    if kind == "model":
        return f"loss {named['val_loss']}, {named['nonzeros']} of {named['entries']} weights nonzero"
    if kind == "bridge":
        gaps = {"dense to sparse": "gap_dense_to_sparse", "sparse to dense": "gap_sparse_to_dense"}
        return "largest gap, " + ", ".join(f"{way} {named[gap]} nats" for way, gap in gaps.items())
    if kind == "verdict":
        told = {"word": "", "share": "share ", "weakest": ""}
        return "; ".join(f"{before}{named[name]}" for name, before in told.items() if name in named)
    sizes = [f"{named[name]} {name}" for name in ("nodes", "edges") if name in named]
    measured = (f"{name} {named[name]}" for name in ("loss", "accuracy") if name in named)
    return ", ".join([*sizes, *measured]) or kind


def with_units(values: dict[str, object]) -> str:
    """One line per value, each with its unit."""
    return plain({name: written(name, value) for name, value in values.items()})


def written(name: str, value: object) -> str:
    """A value for reading."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {written(name, inner)}" for key, inner in value.items()) or "none"
    if name == "bytes" and isinstance(value, int):
        return f"{size(value)} ({value:,} bytes)" if value >= 1024 else size(value)
    if name == "seconds" and isinstance(value, int | float):
        return f"{number(value)} s" if value < 60 else duration(value)
    if not isinstance(value, int | float):
        return str(value)
    unit = next((unit for ending, unit in UNITS.items() if name == ending or name.startswith(f"{ending} ")), "")
    if not unit and name.rpartition(" ")[2] == "tokens":
        unit = "tokens"
    if not unit and name.endswith(("loss", "losses")):
        unit = "nats"
    return " ".join(filter(None, (number(value), unit)))


def kind_of(folder: Path) -> str:
    """The format of an artefact. Raises UserError for other folders, and for a format that nothing registers."""
    if artifact.is_finished(folder):
        kind = artifact.read_head(folder / "meta.json").format
        if kind not in DETAILS:
            artifact.registered(kind, folder)
        return kind
    if (folder / "config.json").exists():
        raise UserError(f"{folder} is unfinished; run the command that makes it again (it has no meta.json).")
    raise UserError(
        f"{folder} is not a thinwire artefact or workspace; give a folder that one of the verbs has written."
    )


OWNERS = {"circuit": "model", "verdict": "circuit"}
"""The parent that belongs in the same workspace, by the format of the child."""
UNITS = {
    "vocab_size": "tokens",
    "removed_tokens": "tokens",
    "tokens_per_second": "tokens/s",
    **dict.fromkeys(("to_sparse", "to_dense", "gap_dense_to_sparse", "gap_sparse_to_dense"), "nats"),
    "nonzeros": "weights",
    "entries": "weights",
    "bigram": "weights",
}
"""Units of values, by name or by the first word of it."""

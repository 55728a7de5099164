"""thinwire info: describe an artefact folder, or list the shipped models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.table import Table

from thinwire import artifact, shipped
from thinwire.cli.common import emit, parse
from thinwire.errors import UserError


@dataclass(frozen=True)
class Args:
    """Describe an artefact folder: its contents, its parents, and whether its files are whole.

    Without a folder: list the models that come with the package.
    """

    folder: tyro.conf.Positional[Path | None] = None
    """Folder of an artefact, such as tokens, a model, a circuit or a verdict; or the name of a shipped model."""
    json: bool = False
    """End stdout with one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "info")
    if args.folder is None:
        list_shipped(args.json)
        return
    folder = shipped.find(args.folder)
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
    emit(values | details, args.json)


def list_shipped(as_json: bool) -> None:
    """Print name, size and loss of every shipped model."""
    from thinwire.train.result import read_result

    table = Table("model", "nonzeros", "weights", "validation loss", "bytes")
    rows: list[dict[str, object]] = []
    for name in shipped.names():
        result, found = read_result(name), artifact.open_artifact(Path(name), "model")
        size = sum(entry.bytes for entry in found.meta.files.values())
        row = {"name": name, "nonzeros": result.nonzeros, "entries": result.entries, "val_loss": result.val_loss}
        rows.append(row | {"bytes": size, "out": str(found.path)})
        table.add_row(name, f"{result.nonzeros:,}", f"{result.entries:,}", f"{result.val_loss:.3f}", f"{size:,}")
    emit({"models": rows}, as_json, table if rows else "This installation has no shipped models.")


def kind_of(folder: Path) -> str:
    """The format of an artefact. Raises UserError for other folders, and for a format that nothing registers."""
    if artifact.is_finished(folder):
        kind = artifact.read_head(folder / "meta.json").format
        if kind not in DETAILS:
            artifact.registered(kind, folder)
        return kind
    if (folder / "config.json").exists():
        raise UserError(f"{folder} is unfinished; run the command that makes it again (it has no meta.json).")
    raise UserError(f"{folder} is not a thinwire artefact; give a folder that one of the verbs has written.")


def tokens_details(folder: Path) -> dict[str, object]:
    """Tokens of each part and split."""
    from thinwire.data import Tokens

    tokens = Tokens.open(folder)
    rows = {f"{row.part} {row.split} tokens": row.tokens for row in tokens.stats.parts}
    return {"vocab_size": tokens.tokenizer.vocab_size, "tokenizer": tokens.tokenizer.id, **rows}


def model_details(folder: Path) -> dict[str, object]:
    """Losses, and the nonzeros of every sparse parameter."""
    from dataclasses import asdict

    from thinwire.model.weights import load, sparse_parameters
    from thinwire.train.result import read_result

    model = load(folder)
    result = {name: value for name, value in asdict(read_result(folder)).items() if name not in ("out", "val_losses")}
    shape = model.config
    sizes: dict[str, object] = {
        "n_layers": shape.n_layers,
        "d_model": shape.d_model,
        "n_heads": shape.n_heads,
        "d_mlp": shape.d_mlp,
    }
    nonzeros = {f"nonzeros {name}": int(value.count_nonzero()) for name, value in sparse_parameters(model)}
    return sizes | result | nonzeros


def circuit_details(folder: Path) -> dict[str, object]:
    """What pruning reported, and how the circuit runs; `kept_edges` where it drops some between its nodes."""
    from thinwire.circuit import Circuit
    from thinwire.cli.prune import summary

    circuit = Circuit.load(folder)
    reported = {name: value for name, value in summary(circuit, folder).items() if name != "out"}
    listed = {} if circuit.kept_edges is None else {"kept_edges": len(circuit.kept_edges)}
    parts = {"frozen_norms": circuit.frozen_norms, "removed_tokens": len(circuit.removed_tokens)}
    return reported | listed | parts | {"task_source": circuit.task_source or None}


def verdict_details(folder: Path) -> dict[str, object]:
    """The results of the checks."""
    from thinwire.cli.verify import summary
    from thinwire.verify import Verdict

    return summary(Verdict.load(folder))


DETAILS: dict[str, Callable[[Path], dict[str, object]]] = {
    "tokens": tokens_details,
    "model": model_details,
    "circuit": circuit_details,
    "verdict": verdict_details,
}
"""What `info` adds for the formats of this package; an artefact of any other registered format is described without."""

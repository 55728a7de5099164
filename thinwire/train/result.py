"""What a run reports when it is done, and the model artefact it leaves."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import with_config

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.config import STRICT, read_record
from thinwire.data import Tokens
from thinwire.model.transformer import Transformer
from thinwire.model.weights import count_nonzeros, count_sparse_entries, save_weights
from thinwire.train.config import TrainConfig


@with_config(STRICT)
@dataclass(frozen=True)
class TrainResult:
    """What a finished training run reports."""

    out: str = field(default="", kw_only=True)
    """The model's folder."""
    val_loss: float
    """Held-out cross-entropy, nats per token, corpus parts weighted as in training."""
    val_losses: dict[str, float]
    """The same per corpus part."""
    nonzeros: int
    """Nonzero entries of the sparse parameters (L0)."""
    entries: int
    """All entries of the sparse parameters."""
    tokens: int
    """Tokens trained on."""
    tokens_per_second: float | None
    """Null for a model taken from a run that went on."""
    seconds: float | None
    """Wall-clock time, over all sessions of the run, validation and checkpoints included; null likewise."""


def result_of(
    model: Transformer, config: TrainConfig, tokens: Tokens, losses: dict[str, float], step: int, seconds: float | None
) -> TrainResult:
    """The result of a sparse model after `step` steps that took so many seconds, from its validation losses."""
    weights = {part: tokens.config.weight(part) for part in tokens.parts}
    trained = step * config.batch_size * config.model.context
    return TrainResult(
        val_loss=sum(weights[part] * losses[part] for part in losses) / sum(weights[part] for part in losses),
        val_losses=losses,
        nonzeros=count_nonzeros(model),
        entries=count_sparse_entries(model),
        tokens=trained,
        tokens_per_second=None if seconds is None else trained / seconds,
        seconds=seconds,
    )


def read_result(folder: Path | str) -> TrainResult:
    """The result of a finished run from its folder."""
    opened = artifact.open_artifact(Path(folder), "model")
    refusal = f"{folder} does not hold a readable summary.json; delete it and train again."
    return replace(read_record(TrainResult, opened.path / artifact.SUMMARY, refusal), out=str(folder))


def write_model(
    folder: Path,
    model: Transformer,
    config: TrainConfig,
    tokens: Tokens,
    parents: Mapping[str, Artifact],
    result: TrainResult,
    also: Sequence[str] = (),
) -> Artifact:
    """Make a folder a finished model artefact; `also` names files of it that are there already."""
    save_weights(model, folder / "weights.safetensors")
    artifact.write_text(folder / "model.json", config.model.to_json())
    stored = {name: value for name, value in asdict(result).items() if name != "out"}
    artifact.write_text(folder / artifact.SUMMARY, json.dumps(stored, indent=2))
    shutil.copyfile(tokens.artifact.path / "tokenizer.json", folder / "tokenizer.json")
    files = ["model.json", "weights.safetensors", "tokenizer.json", artifact.SUMMARY, *also]
    return artifact.finish(folder, "model", config, parents, files, seed=config.seed)

"""The result of a finished run, and the model artefact that it writes."""

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
from thinwire.display import one_line
from thinwire.model.config import ModelConfig
from thinwire.model.counts import WeightCounts
from thinwire.model.transformer import Transformer
from thinwire.model.weights import save_weights
from thinwire.train.config import TrainConfig

OBJECTIVE = "objective.json"
"""File that names the objective of a run, where it is not the default one."""
OBJECTIVE_STATE = "objective.safetensors"
"""File of what the objective of a run trained besides the model, where there is anything."""


@one_line
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
    """Null for a model saved in the middle of a run."""
    seconds: float | None
    """Wall-clock time with validation and checkpoints, summed over interruptions; null likewise."""

    def weights(self, shape: ModelConfig) -> WeightCounts:
        """The counts of the trained model, which has this shape."""
        return WeightCounts.from_shape(self.nonzeros, shape)


def mean_loss(losses: Mapping[str, float], tokens: Tokens) -> float:
    """The mean of losses per corpus part, weighted as the parts are in training."""
    weights = {part: tokens.config.weight(part) for part in tokens.parts}
    return sum(weights[part] * losses[part] for part in losses) / sum(weights[part] for part in losses)


def result_of(
    model: Transformer, config: TrainConfig, tokens: Tokens, losses: dict[str, float], step: int, seconds: float | None
) -> TrainResult:
    """The result of a sparse model after `step` steps that took so many seconds, from its validation losses."""
    trained, counts = step * config.batch_size * config.model.context, WeightCounts.of(model)
    return TrainResult(
        val_loss=mean_loss(losses, tokens),
        val_losses=losses,
        nonzeros=counts.nonzeros,
        entries=counts.entries,
        tokens=trained,
        tokens_per_second=None if seconds is None else trained / seconds,
        seconds=seconds,
    )


def read_result(folder: Path | str) -> TrainResult:
    """The result of a finished run from its folder, whose files are checked. Raises UserError for any other."""
    return result_in(artifact.open_artifact(Path(folder), "model"), str(folder))


def result_in(opened: Artifact, out: str = "") -> TrainResult:
    """The same from a model artefact that is open already."""
    refusal = f"{opened.path} does not hold a readable summary.json; delete it and train again."
    return replace(read_record(TrainResult, opened.file(artifact.SUMMARY), refusal), out=out)


def write_summary(folder: Path, result: TrainResult) -> None:
    """Write what `result_in` reads."""
    stored = {name: value for name, value in asdict(result).items() if name != "out"}
    artifact.write_text(folder / artifact.SUMMARY, json.dumps(stored, indent=2))


def write_model(
    folder: Path,
    model: Transformer,
    config: TrainConfig,
    tokens: Tokens,
    parents: Mapping[str, Artifact],
    result: TrainResult,
    also: Sequence[str] = (),
) -> Artifact:
    """Write a finished model artefact into a folder; `also` names files of it that are there already."""
    save_weights(model, folder / "weights.safetensors")
    artifact.write_text(folder / "model.json", config.model.to_json())
    write_summary(folder, result)
    shutil.copyfile(tokens.artifact.file("tokenizer.json"), folder / "tokenizer.json")
    files = ["model.json", "weights.safetensors", "tokenizer.json", artifact.SUMMARY, *also]
    return artifact.finish(folder, "model", config, parents, files, seed=config.seed)

"""Bridges on disk: an artefact folder whose parents are both models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.artifact.tensors import read_tensors, write_tensors
from thinwire.bridge.agreement import Agreement
from thinwire.bridge.config import BridgeConfig
from thinwire.bridge.maps import Bridge, Junction
from thinwire.bridge.profile import Profile
from thinwire.config import read_record
from thinwire.display import one_line
from thinwire.errors import UserError

SHAPE = "bridge.json"
WEIGHTS = "bridge.safetensors"


class BridgeShape(BaseModel):
    """Contents of `bridge.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    junctions: tuple[tuple[NonNegativeInt, NonNegativeInt], ...]
    """Residual points that are joined, of the dense and of the sparse model."""
    d_dense: PositiveInt
    d_sparse: PositiveInt
    n_active: PositiveInt

    @classmethod
    def of(cls, bridge: Bridge) -> Self:
        """The shape of a bridge."""
        d_dense, d_sparse = bridge.d_dense, bridge.d_sparse
        return cls(
            junctions=tuple((each.dense, each.sparse) for each in bridge.junctions),
            d_dense=d_dense,
            d_sparse=d_sparse,
            n_active=bridge.keep.k,
        )


class BridgeSummary(BaseModel):
    """Contents of a bridge's `summary.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    """The last stage of its fit: ridge, maps, joint or scratch."""
    seconds: float
    """Wall-clock time of all stages of its fit."""
    profile: Profile
    agreement: Agreement | None = None
    """None for a bridge that was made without."""


@one_line
@dataclass(frozen=True)
class StoredBridge:
    """A bridge as it was read."""

    artifact: Artifact
    bridge: Bridge
    summary: BridgeSummary


def save_bridge(
    folder: Path, bridge: Bridge, config: BridgeConfig, parents: dict[str, Artifact], summary: BridgeSummary
) -> StoredBridge:
    """Write a finished bridge artefact in place of `folder`; `parents` are `dense`, `sparse` and `tokens`."""
    with artifact.replacing(folder, "bridge") as scratch:
        artifact.write_text(scratch / SHAPE, BridgeShape.of(bridge).model_dump_json(indent=2))
        write_tensors(scratch / WEIGHTS, bridge.state_dict())
        artifact.write_text(scratch / artifact.SUMMARY, summary.model_dump_json(indent=2))
        artifact.finish(scratch, "bridge", config, parents, [SHAPE, WEIGHTS, artifact.SUMMARY], seed=config.seed)
    return load_bridge(folder)


def load_bridge(folder: Path | str) -> StoredBridge:
    """The bridge in an artefact folder. Raises UserError, in one sentence, for anything else."""
    opened = artifact.open_artifact(Path(folder), "bridge", "fit the bridge again")
    refusal = f"{opened.path} does not hold a readable bridge; fit it again."
    shape = read_record(BridgeShape, opened.file(SHAPE), refusal)
    summary = read_record(BridgeSummary, opened.file(artifact.SUMMARY), refusal)
    weights = read_tensors(opened.file(WEIGHTS), refusal).values
    try:
        junctions = tuple(Junction(*pair) for pair in shape.junctions)
        bridge = Bridge(junctions, shape.d_dense, shape.d_sparse, shape.n_active)
        bridge.load_state_dict(weights)
    except (RuntimeError, ValueError):  # of another shape
        raise UserError(refusal) from None
    return StoredBridge(opened, bridge.eval().requires_grad_(False), summary)

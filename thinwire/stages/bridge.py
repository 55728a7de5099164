"""From two models to a bridge: ridge regression, then the maps alone, then the maps and the sparse model together.

Every stage leaves a bridge artefact in a workspace, and starts from the one before it:
`WORK/ridge`, `WORK/maps`, `WORK/joint`. The runs that train are in `WORK/runs`, and resume; `WORK/runs/joint` is the
bridged sparse model.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.artifact.tensors import read_tensors
from thinwire.bridge.config import BridgeConfig
from thinwire.bridge.crossings import Pair
from thinwire.bridge.maps import Bridge, Junction, matching_points
from thinwire.bridge.objective import Bridging
from thinwire.bridge.profile import measure_profile
from thinwire.bridge.ridge import fit_ridge
from thinwire.bridge.store import BridgeSummary, StoredBridge, load_bridge, save_bridge
from thinwire.bridge.targets import OwnTarget, Target
from thinwire.compiled.compile import compile_sparse
from thinwire.data import Tokenizer, Tokens
from thinwire.errors import UserError
from thinwire.model.transformer import Transformer
from thinwire.model.weights import load
from thinwire.progress import Report, silent
from thinwire.train.config import TrainConfig
from thinwire.train.inputs import Sources
from thinwire.train.loop import train
from thinwire.train.result import OBJECTIVE_STATE
from thinwire.train.watch import Monitoring

Stage = Literal["ridge", "maps", "joint"]
DEFAULTS = BridgeConfig()


@dataclass(frozen=True)
class Ends:
    """The two models of a bridge, opened, and the tokens that it is fitted on."""

    target: Target
    dense: Artifact
    sparse: Artifact
    tokens: Tokens
    junctions: tuple[Junction, ...]

    @classmethod
    def open(cls, dense: Path | str, sparse: Path | str, tokens: Tokens) -> "Ends":
        """Open both models by folder or shipped name.

        Raises UserError for a folder without a finished model, and for models that do not fit each other or the tokens.
        """
        opened = {role: artifact.open_artifact(Path(path), "model") for role, path in (("d", dense), ("s", sparse))}
        for found in opened.values():
            if Tokenizer.load(found.file("tokenizer.json")).id != tokens.tokenizer.id:
                raise UserError(
                    f"{found.path} and {tokens.artifact.path} have different tokenizers; "
                    "give a dense and a sparse model, and tokens, of one tokenizer."
                )
        target = OwnTarget(load(opened["d"].path))
        shape = load(opened["s"].path).config
        junctions = matching_points(target.n_points, 2 * shape.n_layers + 1)
        return cls(target, opened["d"], opened["s"], tokens, junctions)

    def parents(self, sparse: Artifact | None = None) -> dict[str, Artifact]:
        """The parents of a bridge by role; `sparse` replaces the sparse model."""
        return {"dense": self.dense, "sparse": sparse or self.sparse, "tokens": self.tokens.artifact}

    def pair(self, sparse: Transformer) -> Pair:
        """Both models for crossings, the sparse one on sparse kernels."""
        return Pair(self.target, compile_sparse(sparse), self.target.n_points, 2 * sparse.config.n_layers + 1)

    def context(self, sparse: Transformer) -> int:
        """Tokens of the longest prompt that both models take."""
        return min(self.target.context, sparse.config.context)


def bridge_stage(
    ends: Ends, out: Path, config: BridgeConfig = DEFAULTS, report: Callable[[str], Report] = lambda _: silent
) -> dict[Stage, StoredBridge]:
    """Fit a bridge in the workspace `out`, stage by stage; returns the bridge of each. Finished stages are reused.

    `report` takes the name of a stage and returns where its progress goes. Raises UserError for a workspace of other
    models or another config, and KeyboardInterrupt, after saving, on SIGINT and SIGTERM.
    """
    out = Path(out)
    found: dict[Stage, StoredBridge] = {"ridge": _ridge(ends, out / "ridge", config, report("ridge"))}
    if config.bridge_steps:
        found["maps"] = _trained(ends, out, "maps", config, list(found.values())[-1], report("maps"))
    if config.joint_steps:
        found["joint"] = _trained(ends, out, "joint", config, list(found.values())[-1], report("joint"))
    return found


def stage_config(config: BridgeConfig, stage: Stage) -> BridgeConfig:
    """The config with what has no effect up to this stage at its default, so that a later choice remakes no stage."""
    later: dict[str, object] = {}
    if stage != "joint":
        later |= {"joint_steps": 0, "model_rate": DEFAULTS.model_rate, "joint_weights": DEFAULTS.joint_weights}
    if stage == "ridge":
        names = ("batch_size", "bridge_rate", "crossings", "weights")
        later |= {"bridge_steps": 0} | {name: getattr(DEFAULTS, name) for name in names}
    return config.replace(**later)


def _ridge(ends: Ends, folder: Path, config: BridgeConfig, report: Report) -> StoredBridge:
    config = stage_config(config, "ridge")

    def make() -> StoredBridge:
        began = time.monotonic()
        sparse = load(ends.sparse.path)
        pair = ends.pair(sparse)
        bridge = Bridge(ends.junctions, ends.target.d_model, sparse.config.d_model, config.n_active)
        fit_ridge(pair, bridge, _batches(ends, ends.context(sparse), config, report), config.ridge)
        seconds = time.monotonic() - began
        return _save(ends, folder, bridge, config, "ridge", ends.sparse, seconds)

    return artifact.reuse_or_make(folder, lambda: _finished(folder, config, ends.parents()), make, report)


def _trained(
    ends: Ends, out: Path, stage: Stage, config: BridgeConfig, before: StoredBridge, report: Report
) -> StoredBridge:
    """The bridge after a stage that trains, from the bridge `before` it."""
    config, folder, run = stage_config(config, stage), out / stage, out / "runs" / stage
    joint = stage == "joint"
    how = Bridging(
        frozen=not joint,
        rate=config.bridge_rate,
        crossings=config.crossings,
        weights=config.joint_weights if joint else config.weights,
        start=before.artifact.id,
        dense=ends.dense.id,
    ).between(before.bridge, ends.target)
    recipe = _recipe(ends, config, stage)
    trained = train(recipe, ends.tokens, run, Sources(start=ends.sparse.path, objective=how), Monitoring(report))
    sparse = artifact.open_artifact(run, "model") if joint else ends.sparse

    def make() -> StoredBridge:
        bridge = Bridge(ends.junctions, before.bridge.d_dense, before.bridge.d_sparse, config.n_active)
        opened = artifact.open_artifact(run, "model")
        refusal = f"{run} has lost the bridge that it trained; delete it and fit again."
        state = read_tensors(opened.file(OBJECTIVE_STATE), refusal).values
        bridge.load_state_dict({name.removeprefix("bridge."): value for name, value in state.items()})
        seconds = before.summary.seconds + (trained.seconds or 0.0)
        return _save(ends, folder, bridge.requires_grad_(False), config, stage, sparse, seconds)

    return artifact.reuse_or_make(folder, lambda: _finished(folder, config, ends.parents(sparse)), make, report)


def _recipe(ends: Ends, config: BridgeConfig, stage: Stage) -> TrainConfig:
    """The training run of a stage: the sparse model on its frozen support."""
    shape = load(ends.sparse.path).config
    steps = config.joint_steps if stage == "joint" else config.bridge_steps
    return TrainConfig(
        model=shape,
        steps=steps,
        batch_size=config.batch_size,
        seed=config.seed,
        sparsity="frozen",
        density=1.0,
        floor=0,
        learning_rate=config.model_rate,
        warmup=0.05,
        l0_factor="off",
        weight_decay=0.0,
        validate_every=steps,
        validation_tokens=config.validation_tokens,
        checkpoint_every=50,
        log_every=10,
    )


def _batches(ends: Ends, context: int, config: BridgeConfig, report: Report) -> Iterator[Tensor]:
    """Batches of training tokens [batch, pos] for the regression."""
    size = config.batch_size * context
    n = -(-config.ridge_tokens // size)
    for step in range(n):
        rows = ends.tokens.batch(step, config.seed, config.batch_size, context)
        yield torch.from_numpy(rows)[:, :-1]
        report(step + 1, n, f"{(step + 1) * size:,} tokens")


def _save(
    ends: Ends, folder: Path, bridge: Bridge, config: BridgeConfig, stage: Stage, sparse: Artifact, seconds: float
) -> StoredBridge:
    model = load(sparse.path)
    profile = measure_profile(ends.pair(model), bridge, _held_out(ends, ends.context(model), config))
    summary = BridgeSummary(stage=stage, seconds=seconds, profile=profile)
    return save_bridge(folder, bridge, config, ends.parents(sparse), summary)


def _held_out(ends: Ends, context: int, config: BridgeConfig) -> list[tuple[float, Tensor]]:
    """Batches of held-out tokens [batch, pos + 1], weighted as their corpus parts are in training."""
    found: list[tuple[float, Tensor]] = []
    for part in ends.tokens.parts:
        wanted = min(config.validation_tokens, ends.tokens.n_tokens(part, "validation") - 1)
        rows = torch.from_numpy(ends.tokens.validation(part, wanted, context))
        weight = ends.tokens.config.weight(part) / len(rows)
        found += [(weight * len(batch), batch) for batch in rows.split(config.batch_size)]
    return found


def _finished(folder: Path, config: BridgeConfig, parents: Mapping[str, Artifact]) -> StoredBridge | None:
    """The finished bridge in a folder, if it has this config and these parents."""
    ids = {name: parent.id for name, parent in parents.items()}
    return artifact.finished(
        folder,
        load_bridge,
        lambda found: found.artifact.config(BridgeConfig) == config and found.artifact.meta.parents == ids,
    )

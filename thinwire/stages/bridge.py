"""From two models to a bridge: ridge regression, then the maps alone, then the maps and the sparse model together.

Every stage leaves a bridge artefact in a workspace, and starts from the one before it:
`WORK/ridge`, `WORK/maps`, `WORK/joint`. The runs that train are in `WORK/runs`, and resume; `WORK/runs/joint` is the
bridged sparse model. `WORK/scratch`, in place of the last two, has a sparse model that is trained from random weights
together with its bridge, as in Gao et al. 2025, A.3.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.artifact.tensors import read_tensors
from thinwire.bridge.agreement import Tally
from thinwire.bridge.config import BridgeConfig
from thinwire.bridge.crossings import Pair
from thinwire.bridge.maps import Bridge
from thinwire.bridge.objective import Bridging
from thinwire.bridge.profile import measure_profile
from thinwire.bridge.ridge import fit_ridge, sparse_sizes
from thinwire.bridge.store import BridgeSummary, StoredBridge, load_bridge, save_bridge
from thinwire.compiled.load import load_compiled
from thinwire.progress import Report, silent
from thinwire.stages.bridge_folders import (
    DEFAULTS,
    Stage,
    again_in,
    check_again,
    check_places,
    delete,
    differences,
    put_in_place,
    refuse_another,
    stage_config,
    stages,
)
from thinwire.stages.ends import Ends
from thinwire.train.config import TrainConfig
from thinwire.train.inputs import Sources
from thinwire.train.loop import train
from thinwire.train.result import OBJECTIVE_STATE
from thinwire.train.watch import Monitoring


def bridge_stage(
    ends: Ends,
    out: Path,
    config: BridgeConfig = DEFAULTS,
    report: Callable[[Stage], Report] = lambda _: silent,
    again: bool = False,
) -> dict[Stage, StoredBridge]:
    """Fit a bridge in the workspace `out`, stage by stage; returns the bridge of each. Finished stages are reused.

    With `again` all stages are made again in `out/again`, and replace those in `out` when all are finished.
    `report` takes the name of a stage and returns where its
    progress goes. Raises UserError, before anything is changed, for a workspace of other models or another config, and
    KeyboardInterrupt, after saving, on SIGINT and SIGTERM.
    """
    out, config = Path(out), config.replace(tasks=ends.prompts.tasks)
    check_places(out)
    if again:
        return _made_again(ends, out, config, report)
    for stage in stages(config):
        refuse_another(ends, out / stage, stage, config)
    found: dict[Stage, StoredBridge] = {"ridge": _ridge(ends, out / "ridge", config, report("ridge"))}
    for stage in stages(config)[1:]:
        found[stage] = _trained(ends, out, stage, config, list(found.values())[-1], report(stage))
    return found


def _made_again(
    ends: Ends, out: Path, config: BridgeConfig, report: Callable[[Stage], Report]
) -> dict[Stage, StoredBridge]:
    """All stages, made anew; what an interrupted call with the same config has finished of them is reused."""
    check_again(out)
    with artifact.sole_writer(again_in(out)):
        try:
            found = bridge_stage(ends, again_in(out), config, report)
        except artifact.Occupied:  # by an interrupted call with another config
            delete(again_in(out))
            found = bridge_stage(ends, again_in(out), config, report)
        put_in_place(again_in(out), out)
    return {stage: load_bridge(out / stage) for stage in found}


def _ridge(ends: Ends, folder: Path, config: BridgeConfig, report: Report) -> StoredBridge:
    config = stage_config(config, "ridge")

    def make() -> StoredBridge:
        began = time.monotonic()
        bridge = Bridge(ends.junctions, ends.pair.dense.d_model, ends.pair.sparse.config.d_model, config.n_active)
        fit_ridge(ends.pair, bridge, _batches(ends, config, report), config.ridge)
        return _save(ends, folder, bridge, config, "ridge", ends.sparse, time.monotonic() - began)

    differ = partial(differences, config, ends.parents(), "ridge")
    return artifact.reuse_or_make(folder, load_bridge, differ, make, report)


def _trained(
    ends: Ends, out: Path, stage: Stage, config: BridgeConfig, before: StoredBridge, report: Report
) -> StoredBridge:
    """The bridge after a stage that trains, from the bridge `before` it."""
    config, folder, run = stage_config(config, stage), out / stage, out / "runs" / stage
    joint = stage != "maps"
    how = Bridging(
        frozen=not joint,
        rate=config.bridge_rate,
        crossings=config.crossings,
        weights=config.joint_weights if stage == "joint" else config.weights,
        start=before.artifact.id,
        dense=ends.dense.id,
        tasks=ends.prompts.tasks,
        task_share=ends.prompts.share,
    ).between(before.bridge, ends.pair.dense, ends.prompts)
    recipe = _recipe(ends, config, stage)
    start = None if stage == "scratch" else ends.sparse.path
    train_it = partial(train, recipe, ends.tokens, run, Sources(start=start, objective=how), Monitoring(report))
    known = train_it() if joint else None  # its model is a parent of the bridge
    sparse = artifact.open_artifact(run, "model") if joint else ends.sparse

    def make() -> StoredBridge:
        trained = known or train_it()
        bridge = Bridge(ends.junctions, before.bridge.d_dense, before.bridge.d_sparse, config.n_active)
        opened = artifact.open_artifact(run, "model")
        refusal = f"{run} has lost the bridge that it trained; delete it and fit again."
        state = read_tensors(opened.file(OBJECTIVE_STATE), refusal).values
        bridge.load_state_dict({name.removeprefix("bridge."): value for name, value in state.items()})
        if joint:  # the sparse model has changed, and with it the sizes of its stream, which steering goes by
            held_out = (tokens[:, :-1] for _, tokens in _held_out(ends, config))
            pair = Pair.of(ends.pair.dense, load_compiled(sparse))
            bridge.requires_grad_(False).rescale_sparse(sparse_sizes(pair, bridge, held_out))
        seconds = before.summary.seconds + (trained.seconds or 0.0)
        return _save(ends, folder, bridge.requires_grad_(False), config, stage, sparse, seconds)

    differ = partial(differences, config, ends.parents(sparse), stage)
    return artifact.reuse_or_make(folder, load_bridge, differ, make, report)


def _recipe(ends: Ends, config: BridgeConfig, stage: Stage) -> TrainConfig:
    """The training run of a stage: the sparse model on its frozen support, or from scratch as it was trained itself."""
    steps = {"maps": config.bridge_steps, "joint": config.joint_steps}.get(stage, config.scratch_steps)
    if stage == "scratch":
        return ends.sparse.config(TrainConfig).replace(
            steps=steps,
            batch_size=config.batch_size,
            seed=config.seed,
            compute="dense",
            validate_every=steps,
            validation_tokens=config.validation_tokens,
            checkpoint_every=50,
            log_every=10,
        )
    return TrainConfig(
        model=ends.pair.sparse.config,
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


def _batches(ends: Ends, config: BridgeConfig, report: Report) -> Iterator[Tensor]:
    """Batches of training tokens [batch, pos] for the regression."""
    context = ends.pair.sparse.config.context
    size = config.batch_size * context
    n = -(-config.ridge_tokens // size)
    for step in range(n):
        rows = torch.from_numpy(ends.tokens.batch(step, config.seed, config.batch_size, context))
        yield ends.prompts.among(rows, step)[:, :-1]
        report(step + 1, n, f"{(step + 1) * size:,} tokens")


def _save(
    ends: Ends, folder: Path, bridge: Bridge, config: BridgeConfig, stage: Stage, sparse: Artifact, seconds: float
) -> StoredBridge:
    pair = ends.pair if sparse is ends.sparse else Pair.of(ends.pair.dense, load_compiled(sparse))
    tally = Tally(bridge)
    profile = measure_profile(pair, bridge, _held_out(ends, config), tally)
    summary = BridgeSummary(stage=stage, seconds=seconds, profile=profile, agreement=tally.agreement(config.seed))
    return save_bridge(folder, bridge, config, ends.parents(sparse), summary)


def _held_out(ends: Ends, config: BridgeConfig) -> list[tuple[float, Tensor]]:
    """Batches of held-out tokens [batch, pos + 1], weighted as their corpus parts are in training."""
    found: list[tuple[float, Tensor]] = []
    for part in ends.tokens.parts:
        wanted = min(config.validation_tokens, ends.tokens.n_tokens(part, "validation") - 1)
        rows = torch.from_numpy(ends.tokens.validation(part, wanted, ends.pair.sparse.config.context))
        weight = ends.tokens.config.weight(part) / len(rows)
        found += [(weight * len(batch), batch) for batch in rows.split(config.batch_size)]
    return found

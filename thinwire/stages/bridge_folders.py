"""The stages of a bridge and their folders: what a stage's config says of it, and whether what is there fits."""

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from thinwire import artifact
from thinwire.bridge.config import BridgeConfig
from thinwire.bridge.store import load_bridge
from thinwire.errors import UserError
from thinwire.stages.ends import Ends

Stage = Literal["ridge", "maps", "joint"]
STAGES: tuple[Stage, ...] = ("ridge", "maps", "joint")
DEFAULTS = BridgeConfig()


def stages(config: BridgeConfig) -> tuple[Stage, ...]:
    """The stages of a fit, in order."""
    steps: dict[Stage, int] = {"ridge": 1, "maps": config.bridge_steps, "joint": config.joint_steps}
    return tuple(stage for stage in steps if steps[stage])


def check_places(out: Path) -> None:
    """Raise UserError unless every stage can be written."""
    for stage in STAGES:
        artifact.refuse_foreign(out / stage, "bridge")
        artifact.refuse_foreign(out / "runs" / stage, "model")
        artifact.check_place(out / stage)
        artifact.check_place(out / "runs" / stage)


def delete(out: Path) -> None:
    """Delete all stages and their runs, of which no other process may be training one."""
    with ExitStack() as stack:
        for run in (out / "runs" / stage for stage in STAGES):
            if run.exists():
                stack.enter_context(artifact.sole_writer(run))
        for folder in (out / place for stage in STAGES for place in (stage, f"runs/{stage}")):
            if folder.is_symlink():
                folder.unlink()  # what it points to is somebody else's
            elif folder.exists():
                shutil.rmtree(folder)


def refuse_another(ends: Ends, folder: Path, stage: Stage, config: BridgeConfig) -> None:
    """Raise UserError where a finished stage has another config or other parents; what is damaged is made again."""
    found = artifact.finished(folder, load_bridge, lambda _: True)
    if found is None:
        return
    theirs, ours = found.artifact.config(BridgeConfig), stage_config(config, stage)
    other = [name for name in BridgeConfig.model_fields if getattr(theirs, name) != getattr(ours, name)]
    for role, parent in ends.parents().items():
        # the sparse model of the last stage is one of its own, and its run names the one that it started from
        if found.artifact.meta.parents.get(role) != parent.id and (stage, role) != ("joint", "sparse"):
            other.append("tokens" if role == "tokens" else f"{role} model")
    if other:
        raise UserError(
            f"{folder} was fitted with another {' and '.join(other)}; "
            "choose another --out, or give --force to make every stage again."
        )


def stage_config(config: BridgeConfig, stage: Stage) -> BridgeConfig:
    """The config with what has no effect up to this stage at its default, so that a later choice remakes no stage."""
    later: dict[str, object] = {}
    if stage != "joint":
        later |= {"joint_steps": 0, "model_rate": DEFAULTS.model_rate, "joint_weights": DEFAULTS.joint_weights}
    if stage == "ridge":
        names = ("bridge_rate", "crossings", "weights")
        later |= {"bridge_steps": 0} | {name: getattr(DEFAULTS, name) for name in names}
    return config.replace(**later)

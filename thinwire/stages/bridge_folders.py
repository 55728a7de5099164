"""The stages of a bridge and their folders: what a stage's config says of it, and whether what is there fits."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.bridge.config import BridgeConfig
from thinwire.bridge.store import StoredBridge, load_bridge
from thinwire.config import read_record
from thinwire.errors import UserError
from thinwire.stages.ends import Ends
from thinwire.train.result import OBJECTIVE

Stage = Literal["ridge", "maps", "joint", "scratch"]
STAGES: tuple[Stage, ...] = ("ridge", "maps", "joint", "scratch")
PLACES = tuple(place for stage in STAGES for place in (stage, f"runs/{stage}"))
BEFORE: dict[Stage, Stage] = {"maps": "ridge", "joint": "maps", "scratch": "ridge"}
"""The stage that another one starts from."""
DEFAULTS = BridgeConfig()
MAPS = ("bridge_rate", "crossings", "weights")
"""Options of every stage that trains."""


class Start(BaseModel):
    """What the objective of a run says of the bridge that it started from."""

    model_config = ConfigDict(frozen=True, strict=True)
    start: str


def stages(config: BridgeConfig) -> tuple[Stage, ...]:
    """The stages of a fit, in order."""
    if config.scratch_steps:
        return "ridge", "scratch"
    steps: dict[Stage, int] = {"ridge": 1, "maps": config.bridge_steps, "joint": config.joint_steps}
    return tuple(stage for stage in steps if steps[stage])


def check_places(out: Path) -> None:
    """Raise UserError unless every stage can be written."""
    for stage in STAGES:
        artifact.refuse_foreign(out / stage, "bridge")
        artifact.refuse_foreign(out / "runs" / stage, "model")
        artifact.check_place(out / stage)
        artifact.check_place(out / "runs" / stage)


def again_in(out: Path) -> Path:
    """The workspace in which the stages of `out` are made again, until all are finished and replace them."""
    return out / "again"


def check_again(out: Path) -> None:
    """Raise UserError where that workspace is a link, or holds anything but stages, since it is deleted in the end."""
    folder = again_in(out)
    if folder.is_symlink():
        raise UserError(f"{folder} is a link, and --force makes the stages again there; move it.")
    for place, known in ((folder, {*STAGES, "runs"}), (folder / "runs", {*STAGES})):
        names = sorted(os.listdir(place)) if place.is_dir() else []
        left = re.compile(r"\.lock|\..*\.(tmp|old)")
        if other := next((name for name in names if name not in known and not left.fullmatch(name)), None):
            raise UserError(f"{place / other} is no stage of a bridge, and --force would delete it; move it.")
    check_places(folder)


def put_in_place(made: Path, out: Path) -> None:
    """Move all stages and their runs from one workspace to another, in which they replace the earlier ones."""
    with _sole_writers(out):
        for place in PLACES:
            if not (made / place).exists() or (out / place).is_symlink():
                _remove(out / place)
            if (made / place).exists():
                (out / place).parent.mkdir(parents=True, exist_ok=True)
                artifact.put_in_place(made / place, out / place)
    shutil.rmtree(made)


def delete(out: Path) -> None:
    """Delete all stages and their runs, of which no other process may be training one."""
    with _sole_writers(out):
        for place in PLACES:
            _remove(out / place)


@contextmanager
def _sole_writers(out: Path) -> Iterator[None]:
    """Lock every run in a workspace. Raises UserError where another process is training one."""
    with ExitStack() as stack:
        for run in (out / "runs" / stage for stage in STAGES):
            if run.exists():
                stack.enter_context(artifact.sole_writer(run))
        yield


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()  # what it points to is somebody else's
    elif folder.exists():
        shutil.rmtree(folder)


def mixed(out: Path) -> list[Stage]:
    """The finished stages in a workspace that do not come from the stage before, where their runs say what they do.

    So it is where `put_in_place` was killed between two moves. Raises UserError for damaged ones.
    """
    found: list[Stage] = []
    for stage, before in BEFORE.items():
        run = out / "runs" / stage
        if not all(map(artifact.is_finished, (out / stage, out / before, run))):
            continue
        bridge, trained = artifact.open_artifact(out / stage, "bridge"), artifact.open_artifact(run, "model")
        if OBJECTIVE not in trained.meta.files:
            start = None  # a run of another kind
        else:
            start = read_record(Start, trained.file(OBJECTIVE), f"{run} is damaged; fit the bridge again.").start
        own = stage == "maps" or bridge.meta.parents.get("sparse") == trained.id
        if start != artifact.open_artifact(out / before, "bridge").id or not own:
            found.append(stage)
    return found


def refuse_another(ends: Ends, folder: Path, stage: Stage, config: BridgeConfig) -> None:
    """Raise Occupied where a finished stage has another config or other parents; what is damaged is made again."""
    parents = ends.parents()
    if stage in ("joint", "scratch"):  # its sparse model is its own, and its run names what that started from
        del parents["sparse"]
    differ = partial(differences, config, parents, stage)
    artifact.refuse_another(folder, load_bridge, differ)


def differences(config: BridgeConfig, parents: Mapping[str, Artifact], stage: Stage, found: StoredBridge) -> list[str]:
    """Names of the options and parents that a finished stage has others of; options without effect do not count."""
    models = {"dense": "dense model", "sparse": "sparse model"}
    names = artifact.differences(found.artifact, config, parents, tuple(without_effect(config, stage)))
    return [models.get(name, name) for name in names]


def without_effect(config: BridgeConfig, stage: Stage) -> set[str]:
    """Names of the options that have no effect up to a stage, so that a later choice of them remakes no stage."""
    used = {
        "ridge": (),
        "maps": (*MAPS, "bridge_steps"),
        "joint": (*MAPS, "bridge_steps", "joint_steps", "model_rate", "joint_weights"),
        "scratch": (*MAPS, "scratch_steps"),
    }
    unused = {*used["joint"], *used["scratch"]} - {*used[stage]}
    return unused if config.tasks else {*unused, "task_share"}


def stage_config(config: BridgeConfig, stage: Stage) -> BridgeConfig:
    """The config with the options that have no effect up to a stage at their defaults."""
    return config.replace(**{name: getattr(DEFAULTS, name) for name in without_effect(config, stage)})

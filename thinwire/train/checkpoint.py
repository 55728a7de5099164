"""Checkpoints: parameters, buffers, both moments and the step, in safetensors files, restored bit for bit.

* A checkpoint is one file, the head, and the shards that the head names. A single process, or ranks that each hold all
  weights, write only a head. With `fsdp` every rank writes one file, and that of rank 0 is the head.
* The rows of a sharded tensor are in the order of the files. Any number of ranks in any mode reads any checkpoint, and
  each rank reads only the rows that it holds.
* Writes are atomic. The head is written last. So there is a complete checkpoint at every moment.
* Every file holds the SHA-256 of its contents. The checkpoint before is kept too, and a run whose last one is damaged
  resumes from that.
"""

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from thinwire import artifact
from thinwire.artifact.tensors import UNREADABLE, on_cpu, opened, save_tensors
from thinwire.errors import UserError
from thinwire.train.ranks import Ranks
from thinwire.train.rows import like_sharded, local, local_rows
from thinwire.train.step import State

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
RUN = "run"
"""Key of the metadata that hold the state of the run, in JSON."""
DIGEST = "sha256"
OF_EARLIER = {"parents", "seconds", "shards", "step"}
"""Keys of the state of a run that also versions wrote which stored no digest."""


class Damaged(UserError):
    """A checkpoint whose files are not what was written."""


def save(state: State, path: Path, parents: dict[str, str], seconds: float) -> None:
    """Write everything that the rest of the run depends on, and the seconds spent so far; returns when all ranks have.

    `parents` are content hashes by role.
    """
    ranks = state.ranks
    shards = [_shard(path, state.step, rank, ranks.world_size) for rank in range(1, ranks.world_size)]
    if ranks.mode != "fsdp":
        shards = []
    if shards and not ranks.first:
        with artifact.atomic(shards[ranks.rank - 1]) as temporary:
            _write(temporary, dict(_rows(state)), {"step": state.step})
    ranks.wait()
    if ranks.first:
        run = {"step": state.step, "parents": parents, "seconds": seconds, "shards": [shard.name for shard in shards]}
        if state.support_share is not None:
            run["support_share"] = state.support_share
        with artifact.atomic(path) as temporary:
            _write(temporary, dict(_rows(state)) | dict(_wholes(state)), run)
            kept = _keep(path)
        _remove_shards(path, keep=[*shards, *kept])
    ranks.wait()


def previous(path: Path) -> Path:
    """The head of the checkpoint before the one at `path`."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _write(path: Path, tensors: Mapping[str, Tensor], run: Mapping[str, object]) -> None:
    """Write a file with its digest."""
    stored = on_cpu(tensors)
    described = {**run, DIGEST: digest(run, sorted(stored), stored.__getitem__)}
    save_tensors(path, stored, {RUN: json.dumps(described)})


def digest(run: Mapping[str, object], names: Iterable[str], tensor: Callable[[str], Tensor]) -> str:
    """SHA-256, in hex, of the state of a run and of tensors: names, types, shapes and values."""
    found = hashlib.sha256(json.dumps(run, sort_keys=True).encode())
    for name in names:
        value = tensor(name)
        found.update(f"\n{name} {value.dtype} {list(value.shape)} ".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _keep(path: Path) -> list[Path]:
    """Keep the checkpoint at `path`, if there is one, as the previous one; returns its shards."""
    if not path.exists():
        return []
    with artifact.atomic(previous(path)) as temporary:
        try:
            os.link(path, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(path, temporary)
    try:
        with _Reader.open(path) as reader:
            return [path.with_name(name) for name in reader.run["shards"]]
    except UNREADABLE:
        return []


def saved_step(path: Path) -> int:
    """The step a checkpoint was saved after; 0 where there is none that can be read."""
    try:
        with opened(path) as file:
            return int(json.loads(file.metadata()[RUN])["step"])
    except UNREADABLE:
        return 0


def remove(path: Path) -> None:
    """Delete all checkpoints, their shards after their heads."""
    path.unlink(missing_ok=True)
    previous(path).unlink(missing_ok=True)
    _remove_shards(path, keep=[])


def restore(state: State, path: Path, parents: dict[str, str]) -> float:
    """Load a checkpoint into a fresh `state`; returns the seconds that the run had taken. All ranks call this together.

    Where the last checkpoint is damaged, the one before is loaded, and a warning says so. Raises UserError when that is
    damaged too or missing, or when it was made from other parents.
    """
    ranks = state.ranks
    try:
        with ranks.together(Damaged):
            check(path, ranks)
    except Damaged:
        before = previous(path)
        if not ranks.any(before.exists()):
            raise
        with ranks.together(Damaged):
            check(before, ranks)
        if ranks.first:
            os.replace(before, path)
            step = saved_step(path)
            logging.getLogger(__name__).warning("%s is damaged; the run resumes from step %d, before it.", path, step)
        ranks.wait()
    with ranks.together():
        return _load(state, path, parents)


def check(path: Path, ranks: Ranks) -> None:
    """Raise Damaged unless the digests of a checkpoint's files are right; each rank checks its share of the files."""
    try:
        with _Reader.open(path) as reader:
            for file in reader.parts[ranks.rank :: ranks.world_size]:
                run = json.loads(file.metadata()[RUN])
                expected = run.pop(DIGEST, None)
                if expected is None and run.keys() >= OF_EARLIER:
                    raise Damaged(_earlier(path))
                if digest(run, sorted(file.keys()), file.get_tensor) != expected:
                    raise Damaged(_damaged(path))
    except Damaged:
        raise
    except UNREADABLE:
        raise Damaged(_damaged(path)) from None


def _earlier(path: Path) -> str:
    again = f"delete the folder {path.parent} and train again, or resume with that version"
    return f"{path} was written by an earlier thinwire, without a digest; {again}."


def _damaged(path: Path) -> str:
    return f"{path} is damaged; delete the folder {path.parent} and train again."


@torch.no_grad()
def _load(state: State, path: Path, parents: dict[str, str]) -> float:
    try:
        with _Reader.open(path) as reader:
            run = reader.run
            for role in run["parents"].keys() | parents.keys():
                if run["parents"].get(role) != parents.get(role):
                    raise UserError(f"{path} was trained with other {role}; resume with that or choose another --out.")
            for name, buffer in state.objective.named_buffers():
                buffer.copy_(reader.whole(f"buffer/{name}"))
            for name, parameter in state.objective.named_parameters():
                local(parameter).copy_(reader.rows(f"value/{name}", parameter))
                if not reader.has(f"step/{name}"):  # it had no gradient so far
                    continue
                moments = {m: reader.rows(f"{m}/{name}", parameter).to(parameter.device) for m in MOMENTS[:2]}
                moments = {m: like_sharded(moment, parameter) for m, moment in moments.items()}
                step = reader.whole(f"step/{name}").to(parameter.device)
                state.optimizer.state[parameter] = {**moments, "step": step}
        state.step, seconds = _progress(run, state.objective.config.steps)
        state.support_share = _share(run)
    except UserError:
        raise
    except UNREADABLE:
        raise UserError(_damaged(path)) from None
    return seconds


def _progress(run: dict[str, Any], steps: int) -> tuple[int, float]:
    """Step and seconds of a checkpoint. Raises RuntimeError for values that no run of so many steps stores."""
    step, seconds = run["step"], run["seconds"]
    if type(step) is not int or not 0 <= step <= steps:
        raise RuntimeError("a step outside the run")
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise RuntimeError("no time")
    return step, float(seconds)


def _share(run: dict[str, Any]) -> float | None:
    """The share that steps on the support need, if the run had reached them. Raises RuntimeError for invalid values."""
    share = run.get("support_share")
    if share is not None and not (isinstance(share, float) and 0 < share < math.inf):
        raise RuntimeError("no share")
    return share


def _rows(state: State) -> Iterator[tuple[str, Tensor]]:
    """Names and values of the tensors stored by rows: this rank's rows of every parameter and of its moments."""
    for name, parameter in state.objective.named_parameters():
        yield f"value/{name}", local(parameter.detach())
        moments = state.optimizer.state.get(parameter, {})
        yield from ((f"{moment}/{name}", local(moments[moment])) for moment in MOMENTS[:2] if moment in moments)


def _wholes(state: State) -> Iterator[tuple[str, Tensor]]:
    """Names and values of the tensors that every rank has in full, and that the head stores."""
    yield from ((f"buffer/{name}", buffer) for name, buffer in state.objective.named_buffers())
    for name, parameter in state.objective.named_parameters():
        moments = state.optimizer.state.get(parameter, {})
        if "step" in moments:
            yield f"step/{name}", moments["step"]


def _shard(path: Path, step: int, rank: int, world_size: int) -> Path:
    """The file of a rank. Its name contains the step, so that checkpoints of one run do not overwrite each other's."""
    return path.with_name(f"{path.stem}.{step}.{rank}-of-{world_size}{path.suffix}")


def _remove_shards(path: Path, keep: list[Path]) -> None:
    """Delete shards that no head names, and what interrupted writers left."""
    for file in path.parent.glob(f"{path.stem}.*-of-*{path.suffix}"):
        if file not in keep:
            file.unlink(missing_ok=True)
    artifact.sweep(path.parent)


class _Reader:
    """An open checkpoint."""

    def __init__(self, head: Any, run: dict[str, Any], shards: list[Any]) -> None:
        self.run = run
        self._head = head
        self.parts = [head, *shards]

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """The checkpoint at `path` with the shards it names, all open until the block ends."""
        with ExitStack() as files:
            head: Any = files.enter_context(opened(path))
            run = json.loads(head.metadata()[RUN])
            if not all(Path(name).name == name for name in run["shards"]):
                raise KeyError("a shard outside the folder")
            shards = [path.with_name(name) for name in run["shards"]]
            yield cls(head, run, [files.enter_context(opened(shard)) for shard in shards])

    def has(self, key: str) -> bool:
        """Whether the head has a tensor of this name."""
        return key in self._head.keys()  # noqa: SIM118, safetensors files are no mappings

    def whole(self, key: str) -> Tensor:
        """A tensor of any shape that the head has in full."""
        return self._head.get_tensor(key).clone()

    def rows(self, key: str, parameter: Tensor) -> Tensor:
        """The rows of a stored tensor that this rank holds of `parameter`. Raises RuntimeError for another shape."""
        if parameter.ndim == 0:
            return self.whole(key)
        slices = [part.get_slice(key) for part in self.parts]
        shapes = [tuple(each.get_shape()) for each in slices]
        n_rows = sum(shape[0] for shape in shapes)
        if {shape[1:] for shape in shapes} != {tuple(parameter.shape[1:])} or n_rows != parameter.shape[0]:
            raise RuntimeError(f"{key} has another shape")
        start, stop = local_rows(parameter)
        found = []
        for each, shape in zip(slices, shapes, strict=True):
            if start < shape[0] and stop > 0:
                found.append(each[max(start, 0) : min(stop, shape[0])])
            start, stop = start - shape[0], stop - shape[0]
        empty = torch.empty((0, *parameter.shape[1:]), dtype=parameter.dtype, device="cpu")
        return torch.cat(found) if found else empty

"""Checkpoints: parameters, buffers, both moments and the step, in safetensors files, restored bit for bit.

* A checkpoint is one file, the head, and the shards that the head names. A single process, or ranks that each hold all
  weights, write only a head. With `fsdp` every rank writes one file, and that of rank 0 is the head.
* The rows of a sharded tensor are in the order of the files. Any number of ranks in any mode reads any checkpoint, and
  each rank reads only the rows that it holds.
* Writes are atomic. The head is written last and replaces that of the checkpoint before, whose shards are deleted only
  then. So there is a complete checkpoint at every moment.
"""

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from thinwire import artifact
from thinwire.errors import UserError
from thinwire.train.rows import like_sharded, local, local_rows
from thinwire.train.step import State

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
UNREADABLE = (SafetensorError, OSError, KeyError, TypeError, AttributeError, RuntimeError, json.JSONDecodeError)
"""What reading a damaged checkpoint may raise."""


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
            save_file(dict(_rows(state)), temporary)
    ranks.wait()
    if ranks.first:
        run = {"step": state.step, "parents": parents, "seconds": seconds, "shards": [shard.name for shard in shards]}
        if state.support_share is not None:
            run["support_share"] = state.support_share
        with artifact.atomic(path) as temporary:
            save_file(dict(_rows(state)) | dict(_wholes(state)), temporary, metadata={"run": json.dumps(run)})
        _remove_shards(path, keep=shards)
    ranks.wait()


def saved_step(path: Path) -> int:
    """The step a checkpoint was saved after; 0 where there is none yet."""
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as file:
        return int(json.loads(file.metadata()["run"])["step"])


def remove(path: Path) -> None:
    """Delete a checkpoint, its shards after its head."""
    path.unlink(missing_ok=True)
    _remove_shards(path, keep=[])


@torch.no_grad()
def restore(state: State, path: Path, parents: dict[str, str]) -> float:
    """Load a checkpoint into a fresh `state`; returns the seconds that the run had taken.

    Raises UserError when a file is damaged or missing, or was made from other parents.
    """
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
    except UNREADABLE:
        raise UserError(f"{path} is damaged; delete the folder {path.parent} and train again.") from None
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
    """Delete shards that no head names, and temporary files of an interrupted writer."""
    stale = [*path.parent.glob(f"{path.stem}.*-of-*{path.suffix}"), *path.parent.glob(f".{path.stem}.*.tmp")]
    for file in stale:
        if file not in keep:
            file.unlink(missing_ok=True)


class _Reader:
    """An open checkpoint."""

    def __init__(self, head: Any, run: dict[str, Any], shards: list[Any]) -> None:
        self.run = run
        self._head = head
        self._parts = [head, *shards]

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """The checkpoint at `path` with the shards it names, all open until the block ends."""
        with ExitStack() as files:
            head: Any = files.enter_context(safe_open(path, framework="pt"))
            run = json.loads(head.metadata()["run"])
            if not all(Path(name).name == name for name in run["shards"]):
                raise KeyError("a shard outside the folder")
            shards = [path.with_name(name) for name in run["shards"]]
            yield cls(head, run, [files.enter_context(safe_open(shard, framework="pt")) for shard in shards])

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
        slices = [part.get_slice(key) for part in self._parts]
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

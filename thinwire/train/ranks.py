"""Several processes (ranks) that train one model, as torchrun starts them.

Every rank runs the same program on its share of each batch. Only rank 0 writes, reports and measures; the others wait
for it at the next collective operation. An error on one rank is raised on all, with the same message.
"""

import gc
import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from thinwire.errors import UserError
from thinwire.train.config import Parallel

PATIENCE = timedelta(days=1)
"""How long ranks wait for rank 0 while it measures. The launcher detects a rank that has died by itself."""


@dataclass(frozen=True)
class Ranks:
    """The processes that train a model together, as one of them sees them; by default a single process."""

    rank: int = 0
    world_size: int = 1
    mode: Literal["single", "ddp", "fsdp"] = "single"
    """A single process; or each rank holds all weights (ddp), or its rows of every matrix (fsdp)."""
    device: str = "cpu"
    """Where this rank computes."""

    @property
    def first(self) -> bool:
        """Whether this is rank 0, the one that writes and reports."""
        return self.rank == 0

    def placed(self, mode: Parallel, device: str, local_rank: int) -> "Ranks":
        """The same ranks in this mode, on this kind of device; each local rank takes one GPU of its machine.

        Raises UserError for fsdp in a single process, and for a device such as cuda:1, since the launcher numbers GPUs.
        """
        if self.world_size == 1:
            if mode == "fsdp":
                raise UserError(
                    "fsdp needs several processes; start the command as torchrun --nproc-per-node N -m thinwire."
                )
            return replace(self, device=device)
        if device != "cuda":
            if device.startswith("cuda:"):
                raise UserError(f"Every rank takes a GPU of its own; give --device cuda instead of {device}.")
            return replace(self, mode=mode, device=device)
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"This machine has {torch.cuda.device_count()} GPUs, and local rank {local_rank} finds none left; "
                "start at most one process for each."
            )
        torch.cuda.set_device(local_rank)
        return replace(self, mode=mode, device=f"cuda:{local_rank}")

    def share(self, batch: Tensor) -> Tensor:
        """This rank's rows [batch / ranks, ...] of a batch [batch, ...]: equal parts in the order of the ranks."""
        return batch.chunk(self.world_size)[self.rank] if self.world_size > 1 else batch

    def sum(self, values: Tensor) -> Tensor:
        """The elementwise sum over all ranks of a tensor of any shape; in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """The elementwise mean over all ranks of a tensor of any shape; in place."""
        return self.sum(values).div_(self.world_size) if self.world_size > 1 else values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return bool(self.sum(torch.tensor(int(flag), dtype=torch.int64, device="cpu")))

    @contextmanager
    def together(self, kind: type[UserError] = UserError) -> Iterator[None]:
        """Within the block, an error of `kind` on one rank is raised on every rank, with the message of the lowest.

        Ranks wait for each other at the end of the block, so the block itself must not wait for another rank.
        """
        if self.world_size == 1:
            yield
            return
        message = b""
        try:
            yield
        except kind as error:
            message = str(error).encode()
        lengths = torch.zeros(self.world_size, dtype=torch.int64, device="cpu")
        lengths[self.rank] = len(message)
        failed = self.sum(lengths).nonzero().flatten().tolist()
        if failed:
            text = torch.zeros(int(lengths[failed[0]]), dtype=torch.uint8, device="cpu")
            if self.rank == failed[0]:
                text = torch.tensor(list(message), dtype=torch.uint8, device="cpu")
            dist.broadcast(text, failed[0])
            raise kind(bytes(text.tolist()).decode())

    def wait(self) -> None:
        """Return once every rank has called this."""
        self.any(False)


SINGLE = Ranks()
"""A single process."""


def averaging(module: nn.Module) -> nn.Module:
    """The module wrapped so that a backward pass leaves the mean of all ranks' gradients in every rank's parameters."""
    # buffers change in the same way on every rank; older releases call the option by another name
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {option: False}
    return DistributedDataParallel(module, gradient_as_bucket_view=True, **options)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Within the block, the ranks from the launcher's environment variables: gloo between CPUs, nccl between GPUs."""
    # FSDP warns of every sublayer because it returns a view; no view is changed in place here
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
        dist.init_process_group(timeout=PATIENCE)
        try:
            ranks = Ranks(dist.get_rank(), dist.get_world_size(), "ddp")
            yield ranks
            ranks.wait()  # rank 0 hosts the store that all need to leave the group
        except (UserError, KeyboardInterrupt, SystemExit):
            dist.destroy_process_group()
            raise
        # after any other error the ranks are out of step, and leaving the group may block
        dist.destroy_process_group()
        gc.collect()  # wrapped modules hold groups, whose threads have to end before the interpreter

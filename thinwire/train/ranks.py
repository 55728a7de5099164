"""Many processes that train one model, as torchrun starts them: who this one is, and what all of them agree on.

Every rank runs the same program on its share of each batch. Rank 0 alone writes, reports and measures; the others wait
for it at the next thing they do together. What goes wrong on one rank goes wrong on all, in the same words.
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
"""How long ranks wait for rank 0 while it measures; the launcher notices at once when a rank has died."""


@dataclass(frozen=True)
class Ranks:
    """The processes that train a model together, seen from one of them; without arguments, a process by itself."""

    rank: int = 0
    world_size: int = 1
    mode: Literal["single", "ddp", "fsdp"] = "single"
    """By itself; or every rank holds all weights (ddp); or each holds its rows of every matrix (fsdp)."""
    device: str = "cpu"
    """Where this rank computes; a process by itself starts on the CPU."""

    @property
    def first(self) -> bool:
        """Whether this is rank 0, the one that writes and speaks."""
        return self.rank == 0

    def placed(self, mode: Parallel, device: str, local_rank: int) -> "Ranks":
        """The same ranks in this mode, on this kind of device; each GPU of a machine takes one local rank.

        Raises UserError for fsdp in a process by itself, and for the number of a GPU, which the launcher hands out.
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
        """This rank's rows of a batch [batch, ...], a contiguous part; shares are equal and in order."""
        return batch.chunk(self.world_size)[self.rank] if self.world_size > 1 else batch

    def sum(self, values: Tensor) -> Tensor:
        """The elementwise sum over all ranks; in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """The elementwise mean over all ranks; in place."""
        return self.sum(values).div_(self.world_size) if self.world_size > 1 else values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return bool(self.sum(torch.tensor(int(flag))))

    @contextmanager
    def together(self, kind: type[UserError] = UserError) -> Iterator[None]:
        """Let a block succeed on all ranks or fail on all: an error of `kind` on any is raised on every one.

        The lowest rank that failed has the word. Ranks wait for each other at the end of the block, so nothing within
        it may wait for another rank.
        """
        if self.world_size == 1:
            yield
            return
        said = b""
        try:
            yield
        except kind as error:
            said = str(error).encode()
        lengths = torch.zeros(self.world_size, dtype=torch.int64)
        lengths[self.rank] = len(said)
        failed = self.sum(lengths).nonzero().flatten().tolist()
        if failed:
            text = torch.zeros(int(lengths[failed[0]]), dtype=torch.uint8)
            if self.rank == failed[0]:
                text = torch.tensor(list(said), dtype=torch.uint8)
            dist.broadcast(text, failed[0])
            raise kind(bytes(text.tolist()).decode())

    def wait(self) -> None:
        """Return once every rank has come here."""
        self.any(False)


SINGLE = Ranks()
"""A process by itself."""


def averaging(module: nn.Module) -> nn.Module:
    """The same module, whose backward pass leaves the mean of the ranks' gradients in every rank's parameters."""
    # every rank changes buffers in the same way; older releases call the option by another name
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {option: False}
    return DistributedDataParallel(module, gradient_as_bucket_view=True, **options)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Within the block, the ranks that the launcher's environment names: gloo between CPUs, nccl between GPUs."""
    # every sublayer that FSDP wraps is warned of because it returns a view; nothing here changes one in place
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
        # after any other error the ranks are out of step, and taking leave of each other may take for ever
        dist.destroy_process_group()
        gc.collect()  # wrapped modules hold groups, whose threads should end before the interpreter does

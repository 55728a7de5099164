"""Models sharded by rows over several ranks (FSDP2): sharding, access to the local rows, gathering.

A sharded parameter is a DTensor, which knows its ranks.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from thinwire.model.transformer import Transformer
from thinwire.model.weights import sparse_parameters


class Peers(Protocol):
    """The ranks that hold the rows, in order, as one of them sees them."""

    @property
    def rank(self) -> int:
        """The number of this rank."""
        ...

    @property
    def size(self) -> int:
        """The number of ranks."""
        ...

    def sum(self, counts: Tensor) -> Tensor:
        """The elementwise sum over all ranks of a tensor of any shape."""
        ...


@dataclass(frozen=True)
class MeshPeers:
    """The ranks of a device mesh of one dimension."""

    rank: int
    size: int
    group: "torch.distributed.ProcessGroup"

    def sum(self, counts: Tensor) -> Tensor:
        """The elementwise sum over all ranks of a tensor of any shape, in place."""
        torch.distributed.all_reduce(counts, group=self.group)
        return counts


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor, of any shape, is sharded over several ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor  # imported late: half a second that a single process does not need

    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """This rank's rows [own rows, ...] of a tensor [rows, ...], sharing memory; the tensor itself if not sharded."""
    with torch.no_grad():
        return tensor.to_local() if is_sharded(tensor) else tensor  # pyright: ignore


def peers_of(tensor: Tensor) -> MeshPeers:
    """The ranks that hold the rows of a sharded tensor [rows, ...]."""
    mesh = tensor.device_mesh  # pyright: ignore
    return MeshPeers(mesh.get_local_rank(), mesh.size(), mesh.get_group())


def local_rows(tensor: Tensor) -> tuple[int, int]:
    """First row of a tensor [rows, ...] on this rank, and the one after the last; all rows if it is not sharded."""
    if not is_sharded(tensor):
        return 0, tensor.shape[0]
    peers = peers_of(tensor)
    chunk = -(-tensor.shape[0] // peers.size)
    return min(peers.rank * chunk, tensor.shape[0]), min((peers.rank + 1) * chunk, tensor.shape[0])


def like_sharded(rows: Tensor, tensor: Tensor) -> Tensor:
    """A tensor sharded like `tensor`, of which this rank holds `rows` [own rows, ...]; `rows` if not sharded."""
    if not is_sharded(tensor):
        return rows
    from torch.distributed.tensor import DTensor

    mesh, placements = tensor.device_mesh, tensor.placements  # pyright: ignore
    return DTensor.from_local(rows, mesh, placements, run_check=False, shape=tensor.shape, stride=tensor.stride())


def total(counts: Tensor, model: Transformer) -> Tensor:
    """Counts, of any shape, over this rank's entries of a model, summed over its ranks if it is sharded."""
    parameter = next(model.parameters())
    return peers_of(parameter).sum(counts) if is_sharded(parameter) else counts


def count_nonzeros(model: Transformer) -> int:
    """L0: the nonzero entries of the sparse parameters, on all ranks together if the model is sharded."""
    return int(total(torch.stack([local(p).count_nonzero() for _, p in sparse_parameters(model)]), model).sum())


def shard(model: Transformer) -> None:
    """Shard the parameters over all ranks by rows (FSDP2), in place; each sublayer is gathered while it computes.

    Names stay the same; PyTorch replaces the class by a subclass. Every rank must hold the same model, on the device it
    computes on.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = next(model.parameters()).device
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    ends: list[nn.Module | None] = [model.embedding, model.unembedding, model.bigram]
    for module in [*model.sublayers, *ends, model]:
        if module is not None:
            fully_shard(module, mesh=mesh)


@torch.no_grad()
def gathered(model: Transformer, keep: bool) -> Transformer | None:
    """The whole model, on its device, for ranks with `keep`; None on the others.

    Every rank has to call this. A rank without `keep` holds one parameter at a time. A model that is not sharded is
    returned as it is.
    """
    if not is_sharded(next(model.parameters())):
        return model if keep else None
    values = {}
    for name, parameter in model.named_parameters():
        value = parameter.full_tensor()  # pyright: ignore
        if keep:
            values[name] = value
    if not keep:
        return None
    with torch.device("meta"):
        whole = Transformer(model.config)
    whole.load_state_dict(values, assign=True)
    return whole

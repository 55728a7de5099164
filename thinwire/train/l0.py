"""L0: how many nonzeros each parameter has at each step, and the exact projection onto that many."""

import torch
from torch import Tensor

from thinwire.engine.topk.select import keep_largest_, keep_rows
from thinwire.model.transformer import Transformer
from thinwire.model.weights import floor_dim, sparse_parameters
from thinwire.train import density, sharded
from thinwire.train.config import TrainConfig
from thinwire.train.rows import is_sharded


def budget(model: Transformer, step: int, config: TrainConfig) -> dict[str, int]:
    """Nonzeros that each sparse parameter has after `step`."""
    return {
        name: density.n_kept(parameter.numel(), density.density_of(name, step, config))
        for name, parameter in sparse_parameters(model)
    }


def check_floor(model: Transformer, config: TrainConfig) -> None:
    """Raise UserError when the floor alone needs more nonzeros than the density allows."""
    for name, parameter in sparse_parameters(model):
        dim = floor_dim(name)
        if dim is not None:
            density.check_floor(name, parameter.shape[1 - dim], parameter.numel(), config)


@torch.no_grad()
def project(model: Transformer, kept: dict[str, int], floor: int) -> None:
    """Keep exactly the `kept[name]` largest entries of each parameter, in place; of a channel at least `floor`."""
    if is_sharded(next(model.parameters())):
        sharded.project(model, kept, floor)
        return
    for name, parameter in sparse_parameters(model):
        project_values(name, parameter.data, kept[name], floor)


def project_values(name: str, values: Tensor, kept: int, floor: int) -> None:
    """Keep exactly the `kept` largest of the values [out, in] or [out] of the parameter called `name`, in place.

    If it has a floor, the `floor` largest of every row or column are among them.
    """
    if kept < values.numel():
        dim = floor_dim(name)
        reserved = None if dim is None or floor == 0 else _largest_along(values, dim, floor)
        keep_largest_(values, kept, reserved)


def _largest_along(matrix: Tensor, dim: int, count: int) -> Tensor:
    rows = matrix if dim == 1 else matrix.T
    kept = keep_rows(rows, min(count, rows.shape[1])) != 0
    return kept if dim == 1 else kept.T

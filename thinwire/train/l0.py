"""Weight sparsity: how dense the matrices are at each step, and the exact projection onto that many nonzeros."""

import torch
from torch import Tensor

from thinwire.errors import UserError
from thinwire.model.select import keep_largest_, keep_rows
from thinwire.model.transformer import Transformer
from thinwire.model.weights import floor_dim, sparse_parameters
from thinwire.train.config import TrainConfig


def density_at(step: int, config: TrainConfig) -> float:
    """Fraction of nonzeros after `step` of config.steps: 1, then falling linearly, then the target."""
    if config.density == 1:
        return 1.0
    progress = step / config.steps
    done = (progress - config.anneal_start) / (config.anneal_stop - config.anneal_start)
    return 1 + (config.density - 1) * min(max(done, 0.0), 1.0)


def n_kept(numel: int, density: float) -> int:
    """Nonzeros of a parameter of `numel` entries at this density; at least one."""
    return max(1, round(numel * density))


def check_floor(model: Transformer, config: TrainConfig) -> None:
    """Raise UserError when the floor alone needs more nonzeros than the density allows."""
    for name, parameter in sparse_parameters(model):
        dim = floor_dim(name)
        kept = n_kept(parameter.numel(), config.density)
        if dim is not None and config.floor * parameter.shape[1 - dim] > kept:
            raise UserError(
                f"A floor of {config.floor} needs {config.floor * parameter.shape[1 - dim]} nonzeros in {name}, "
                f"and density {config.density:g} leaves {kept}; lower the floor or raise the density."
            )


@torch.no_grad()
def project(model: Transformer, density: float, floor: int) -> None:
    """Keep exactly the largest `density` of every sparse parameter, each floored channel's largest `floor` first."""
    if density >= 1:
        return
    for name, parameter in sparse_parameters(model):
        dim = floor_dim(name)
        reserved = None if dim is None or floor == 0 else _largest_along(parameter, dim, floor)
        keep_largest_(parameter.data, n_kept(parameter.numel(), density), reserved)


def _largest_along(matrix: Tensor, dim: int, count: int) -> Tensor:
    rows = matrix if dim == 1 else matrix.T
    kept = keep_rows(rows, min(count, rows.shape[1])) != 0
    return kept if dim == 1 else kept.T

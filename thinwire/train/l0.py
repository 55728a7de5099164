"""L0: how dense each parameter is at each step, and the exact projection onto that many nonzeros."""

import torch
from torch import Tensor

from thinwire.errors import UserError
from thinwire.model.select import keep_largest_, keep_rows
from thinwire.model.transformer import Transformer
from thinwire.model.weights import floor_dim, sparse_parameters
from thinwire.train import sharded
from thinwire.train.config import TrainConfig
from thinwire.train.rows import is_sharded

BASE_WIDTH = 256
"""Width of the released code's base model; the released density rule counts expansion from it."""


def density_at(step: int, config: TrainConfig) -> float:
    """Fraction of nonzeros of a matrix after `step` of config.steps: 1, then falling, then the target."""
    return _fallen(config.density, step, config)


def density_of(name: str, step: int, config: TrainConfig) -> float:
    """Fraction of nonzeros of the parameter called `name` after `step` of config.steps.

    The released rule keeps pfrac/EF² of a matrix and pfrac/EF of embedding, unembedding and biases, where EF is the
    width over 256: outside matrices the density is EF times as large.
    """
    if name.endswith(".bias") and not config.sparse_biases:
        return 1.0
    if config.density_rule == "uniform" or is_matrix(name):
        return density_at(step, config)
    expansion = config.model.d_model / BASE_WIDTH
    if config.embedding_anneal == "late":
        return min(1.0, density_at(step, config) * expansion)
    return _fallen(min(1.0, config.density * expansion), step, config)


def is_matrix(name: str) -> bool:
    """Whether the parameter called `name` is a weight matrix of a sublayer, not an embedding or a bias."""
    return name.startswith("blocks.") and name.endswith(".weight")


def _fallen(target: float, step: int, config: TrainConfig) -> float:
    if config.density == 1:
        return 1.0
    done = _annealed(step, config)
    return target**done if config.anneal == "exponential" else 1 + (target - 1) * done


def _annealed(step: int, config: TrainConfig) -> float:
    """Part of the anneal that is over after `step`, between 0 and 1."""
    if config.anneal == "none":
        return 1.0 if step else 0.0
    progress = step / config.steps
    done = (progress - config.anneal_start) / (config.anneal_stop - config.anneal_start)
    return min(max(done, 0.0), 1.0)


def n_kept(numel: int, density: float) -> int:
    """Nonzeros of a parameter of `numel` entries at this density; at least one."""
    return max(1, round(numel * density))


def budget(model: Transformer, step: int, config: TrainConfig) -> dict[str, int]:
    """Nonzeros that each sparse parameter has after `step`."""
    return {name: n_kept(p.numel(), density_of(name, step, config)) for name, p in sparse_parameters(model)}


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
def project(model: Transformer, kept: dict[str, int], floor: int) -> None:
    """Keep exactly the `kept[name]` largest entries of each parameter, each floored channel's largest `floor` first."""
    if is_sharded(next(model.parameters())):
        sharded.project(model, kept, floor)
        return
    for name, parameter in sparse_parameters(model):
        project_values(name, parameter.data, kept[name], floor)


def project_values(name: str, values: Tensor, kept: int, floor: int) -> None:
    """Keep exactly the `kept` largest entries of the values of the parameter called `name`, in place; floor first."""
    if kept < values.numel():
        dim = floor_dim(name)
        reserved = None if dim is None or floor == 0 else _largest_along(values, dim, floor)
        keep_largest_(values, kept, reserved)


def _largest_along(matrix: Tensor, dim: int, count: int) -> Tensor:
    rows = matrix if dim == 1 else matrix.T
    kept = keep_rows(rows, min(count, rows.shape[1])) != 0
    return kept if dim == 1 else kept.T

"""Density: which fraction of each parameter is nonzero at each step, and how many nonzeros a floor needs.

Parameters are identified by name, so no model is needed: training and `thinwire plan` share one rule.
"""

from thinwire.errors import UserError
from thinwire.train.config import TrainConfig
from thinwire.train.sparsity.options import OPTIONS

BASE_WIDTH = 256
"""Width of the released code's base model; the released density rule counts expansion from it."""


def density_at(step: int, config: TrainConfig) -> float:
    """Fraction of nonzeros of a matrix after `step` of config.steps: 1, then falling, then the target."""
    return _annealed(config.density, step, config)


def is_annealed(step: int, config: TrainConfig) -> bool:
    """Whether the density has reached its target after `step`."""
    return density_at(step, config) == density_at(config.steps, config)


def density_of(name: str, step: int, config: TrainConfig) -> float:
    """Fraction of nonzeros of the sparse parameter called `name` after `step` of config.steps.

    The released rule keeps pfrac/EF² of a matrix and pfrac/EF of embedding, unembedding and biases, where EF is the
    width over 256: outside matrices the density is EF times as large.
    """
    if config.density == 1 or (name.endswith(".bias") and not config.sparse_biases):
        return 1.0
    if config.density_rule == "uniform" or is_matrix(name):
        return density_at(step, config)
    expansion = config.model.d_model / BASE_WIDTH
    if config.embedding_anneal == "late":
        return min(1.0, density_at(step, config) * expansion)
    return _annealed(min(1.0, config.density * expansion), step, config)


def is_matrix(name: str) -> bool:
    """Whether the parameter called `name` is a weight matrix of a sublayer, not an embedding or a bias."""
    return name.startswith("blocks.") and name.endswith(".weight")


def n_kept(entries: int, density: float) -> int:
    """Nonzeros of a parameter of so many entries at this density; at least one."""
    return max(1, round(entries * density))


def check_floor(name: str, channels: int, entries: int, config: TrainConfig) -> None:
    """Raise UserError when the floor alone needs more nonzeros than the parameter ends up with.

    `channels` is how many rows or columns have a floor, `entries` the size of the parameter.
    """
    kept = n_kept(entries, density_of(name, config.steps, config))
    if config.floor * channels > kept:
        raise UserError(
            f"A floor of {config.floor} needs {config.floor * channels} nonzeros in {name}, "
            f"and density {config.density:g} leaves {kept}; lower the floor or raise the density."
        )


def check_floor_is_kept(config: TrainConfig) -> None:
    """Raise UserError when the config sets a floor and its sparsifier keeps none."""
    if config.floor and config.density < 1 and not OPTIONS[config.sparsity].keeps_floor:
        raise UserError(f"The sparsifier {config.sparsity} keeps no floor; set floor to 0.")


def _annealed(target: float, step: int, config: TrainConfig) -> float:
    if config.density == 1:
        return 1.0
    done = _anneal_progress(step, config)
    return target**done if config.anneal == "exponential" else 1 + (target - 1) * done


def _anneal_progress(step: int, config: TrainConfig) -> float:
    """Part of the anneal that is over after `step`, between 0 and 1."""
    if config.anneal == "none":
        return 1.0 if step else 0.0
    progress = step / config.steps
    done = (progress - config.anneal_start) / (config.anneal_stop - config.anneal_start)
    return min(max(done, 0.0), 1.0)

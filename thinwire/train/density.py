"""Density: which fraction of each parameter is nonzero at each step, and what a floor needs of it.

Parameters go by their names, so that this needs no model: training and its plan share one rule.
"""

from thinwire.errors import UserError
from thinwire.train.config import TrainConfig

BASE_WIDTH = 256
"""Width of the released code's base model; the released density rule counts expansion from it."""


def density_at(step: int, config: TrainConfig) -> float:
    """Fraction of nonzeros of a matrix after `step` of config.steps: 1, then falling, then the target."""
    return _fallen(config.density, step, config)


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
    return _fallen(min(1.0, config.density * expansion), step, config)


def is_matrix(name: str) -> bool:
    """Whether the parameter called `name` is a weight matrix of a sublayer, not an embedding or a bias."""
    return name.startswith("blocks.") and name.endswith(".weight")


def n_kept(entries: int, density: float) -> int:
    """Nonzeros of a parameter of so many entries at this density; at least one."""
    return max(1, round(entries * density))


def check_floor(name: str, channels: int, entries: int, config: TrainConfig) -> None:
    """Raise UserError when the floor of a parameter's channels alone needs more nonzeros than it ends up with."""
    kept = n_kept(entries, density_of(name, config.steps, config))
    if config.floor * channels > kept:
        raise UserError(
            f"A floor of {config.floor} needs {config.floor * channels} nonzeros in {name}, "
            f"and density {config.density:g} leaves {kept}; lower the floor or raise the density."
        )


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

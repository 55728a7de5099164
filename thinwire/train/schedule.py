"""The learning rate: linear warm-up, linear decay, times the L0 factor that gives the "sharkfin"."""

from thinwire.train.config import TrainConfig
from thinwire.train.density import density_at


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Rate of the update that takes the run from `step` to `step + 1`."""
    return plain_rate_at(step, config, config.learning_rate) * _l0_factor(density_at(step + 1, config), config)


def plain_rate_at(step: int, config: TrainConfig, peak: float) -> float:
    """The same with this peak and without the L0 factor."""
    return linear_rate(peak, step, config.steps, config.warmup, config.decay == "linear")


def linear_rate(peak: float, step: int, steps: int, warmup: float, decays: bool = True) -> float:
    """Rate of an update: a linear rise over the fraction `warmup` of the steps, times a linear fall to 0 over all."""
    rising = warmup * steps
    rise = min(1.0, (step + 1) / rising) if rising > 0 else 1.0
    return peak * rise * (1 - step / steps if decays else 1.0)


def _l0_factor(density: float, config: TrainConfig) -> float:
    if config.l0_factor == "off":
        return 1.0
    reference = config.density if config.l0_factor == "final" else 1.0
    return (reference / density) ** 0.5

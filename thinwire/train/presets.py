"""Named training runs. A variant is an edit of another run: `tiny().replace(steps=100)`."""

from collections.abc import Callable

from thinwire.model.config import ModelConfig
from thinwire.registry import Registry
from thinwire.train.config import TrainConfig

PRESETS: Registry[Callable[[], TrainConfig]] = Registry("preset")


@PRESETS.register("tiny")
def tiny() -> TrainConfig:
    """A first model: 2 layers × 256, one weight in 64, a few minutes on two CPU cores."""
    return TrainConfig(
        model=ModelConfig(n_layers=2, d_model=256, context=128),
        steps=2000,
        batch_size=16,
        density=1 / 64,
        floor=0,
        anneal_stop=0.1,
        learning_rate=0.12,
        warmup=0.02,
    )


@PRESETS.register("tiny_dense")
def tiny_dense() -> TrainConfig:
    """The dense twin of `tiny`: the same shape and recipe, without weight or activation sparsity."""
    sparse = tiny()
    model = sparse.model.replace(active_fraction=1.0)
    return sparse.replace(model=model, density=1.0, learning_rate=0.004, steps=800)


@PRESETS.register("shipped")
def shipped() -> TrainConfig:
    """The model that comes with the package: `tiny` with sinks, a little longer, annealed later, with a floor."""
    run = tiny()
    return run.replace(model=run.model.replace(sink=True), steps=2500, floor=2, anneal_stop=0.2)


@PRESETS.register("small")
def small() -> TrainConfig:
    """8 layers × 1024, one weight in 256: hours on one GPU."""
    return TrainConfig(
        model=ModelConfig(n_layers=8, d_model=1024, context=256),
        steps=20_000,
        batch_size=64,
        density=1 / 256,
        floor=1,
        learning_rate=0.06,
    )


@PRESETS.register("paper")
def paper() -> TrainConfig:
    """The paper's 8 layers × 2048, one weight in 1000; that leaves two a row, so its floor of 4 does not fit."""
    return TrainConfig(
        model=ModelConfig(n_layers=8, d_model=2048, context=256),
        steps=100_000,
        batch_size=256,
        density=1 / 1000,
        floor=2,
        anneal_stop=0.8,
        learning_rate=0.01,
    )

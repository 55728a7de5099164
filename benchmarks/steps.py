"""The training steps that benchmarks compare: sparse, dense of the same shape, and the plain-PyTorch twin."""

from collections.abc import Callable

import torch
from plain import PlainTrainer

from thinwire.train import TrainConfig
from thinwire.train.step import new_state, train_step

KINDS = ("sparse", "dense", "plain")
"""The step of this package; the same without AbsTopK and projection; the twin (`plain.py`) of the first."""


def stepper(kind: str, config: TrainConfig, done: float, device: torch.device | str = "cpu") -> Callable[[], object]:
    """One step of a kind on a fixed random batch, with the fraction `done` of training over."""
    generator = torch.Generator().manual_seed(0)
    shape = (config.batch_size, config.model.context + 1)
    batch = torch.randint(config.model.vocab_size, shape, generator=generator).to(device)
    begun = int(done * config.steps)
    if kind == "plain":
        trainer = PlainTrainer(config)
        trainer.model.to(device)
        trainer.n_steps = begun
        return lambda: trainer.step(batch)
    if kind == "dense":
        config = config.replace(model=config.model.replace(active_fraction=1.0), density=1.0)
    state = new_state(config)
    state.to(torch.device(device))
    state.step = begun
    return lambda: train_step(state, batch, config)

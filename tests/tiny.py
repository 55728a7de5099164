"""Very small models and runs, so that a test takes milliseconds."""

import numpy as np
import torch
from torch import Tensor

from thinwire.model import ModelConfig, Transformer
from thinwire.model.weights import sparse_parameters
from thinwire.train import TrainConfig
from thinwire.train.density import n_kept
from thinwire.train.l0 import project

SHAPE = ModelConfig(n_layers=2, d_model=16, d_head=4, mlp_ratio=2, context=16, vocab_size=40, d_pos=6)


def tiny_model(density: float = 1.0, seed: int = 0, **changes: object) -> Transformer:
    """A random model in float32, biases and sinks included, with this fraction of its weights nonzero."""
    model = Transformer(SHAPE.replace(**changes), seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3, generator=generator)
            elif name.endswith("sink"):
                parameter.normal_(0, 1, generator=generator)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5, generator=generator)
    project(model, uniform_budget(model, density), floor=0)
    return model


def uniform_budget(model: Transformer, density: float) -> dict[str, int]:
    """Nonzeros of each sparse parameter at one density for all."""
    return {name: n_kept(p.numel(), density) for name, p in sparse_parameters(model)}


def tiny_prompts(model: Transformer, rows: int = 3, length: int = 9, seed: int = 0) -> Tensor:
    """Random tokens [rows, length]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.vocab_size, (rows, length), generator=generator)


def tiny_run(**changes: object) -> TrainConfig:
    """A run of 20 steps on `tiny_tokens`, floor and annealing included, in float32."""
    return TrainConfig(
        model=SHAPE.replace(vocab_size=300),
        steps=20,
        batch_size=4,
        density=1 / 8,
        floor=1,
        anneal_start=0.1,
        anneal_stop=0.6,
        learning_rate=0.05,
        warmup=0.1,
        precision="fp32",
        validate_every=8,
        validation_tokens=256,
        checkpoint_every=5,
        log_every=1,
    ).replace(**changes)


def synthetic_batch(step: int, config: TrainConfig) -> torch.Tensor:
    """Synthetic windows [batch, context + 1] in which the next token mostly follows from the last one."""
    rng = np.random.default_rng(step)
    shape = config.batch_size, config.model.context + 1
    steps = rng.integers(0, 3, shape)
    return torch.from_numpy(steps.cumsum(1) % config.model.vocab_size)


def sparse_run(**changes: object) -> TrainConfig:
    """A run of 24 steps whose second half is on the support but for every fourth step."""
    run = {"compute": "sparse", "support_every": 4, "density": 1 / 16, "steps": 24, "anneal_stop": 1 / 3}
    return tiny_run(**(run | changes))

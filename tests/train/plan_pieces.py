"""What tests of the plan share: small runs, models without numbers, and a device whose every rate is one."""

import torch
from tiny import SHAPE, tiny_run

from thinwire.model import ModelConfig, Transformer
from thinwire.train import TrainConfig
from thinwire.train.rates import FAMILIES, Device, Sample


def run_of(shape: dict, **changes: object) -> TrainConfig:
    return tiny_run(model=SHAPE.replace(vocab_size=50, **shape), **changes)


def on_meta(config: ModelConfig) -> Transformer:
    with torch.device("meta"):
        return Transformer(config)


def flat_device(**changes: object) -> Device:
    """A device on which a unit of work of every kernel takes a second."""
    once = (Sample(size=(1, 1, 1, 1), rate=1.0),)
    names = [name + precision for name in FAMILIES for precision in ("", ".bf16", ".fp32")]
    kernels = {name: tuple(Sample(size=s.size[: n_numbers(name)], rate=1.0) for s in once) for name in names}
    made = Device(
        kind="cpu",
        measured=True,
        date="",
        machine="",
        source="",
        memory_bytes=10**9,
        native_bf16=True,
        kernels=kernels,
    )
    return made.replace(**changes)


def n_numbers(kernel: str) -> int:
    return len(FAMILIES[kernel.partition(".")[0]].size.split(","))

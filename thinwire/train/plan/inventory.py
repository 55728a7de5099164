"""The parameters of a model by name and shape, and how many of their entries end up nonzero, without building it.

`thinwire.model.transformer` and `thinwire.model.weights` define names, shapes and floors on the real model.
"""

import math
from dataclasses import dataclass
from typing import Literal

from thinwire.model.config import ModelConfig
from thinwire.train import density
from thinwire.train.config import TrainConfig

Group = Literal["embedding", "attention", "MLP", "unembedding", "biases", "bigram table", "other dense"]
Floor = Literal["rows", "columns"]


@dataclass(frozen=True)
class Parameter:
    """One parameter of the model."""

    name: str
    shape: tuple[int, ...]
    group: Group
    sparse: bool = True
    """Whether training may make it sparse."""
    floor: Floor | None = None
    """Whether each row or each column has a floor of nonzeros; None for no floor."""

    @property
    def entries(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class GroupSize:
    """All parameters of one kind."""

    group: Group
    entries: int
    nonzeros: int
    """At the end of training."""


def parameters(model: ModelConfig) -> tuple[Parameter, ...]:
    """Every parameter of a model, those of the sublayers first."""
    found: list[Parameter] = []
    for layer in range(model.n_layers):
        found += _attention(model, f"blocks.{layer}.attn") + _mlp(model, f"blocks.{layer}.mlp")
    found.append(Parameter("embedding.weight", (model.vocab_size, model.d_model), "embedding"))
    width = {"none": 0, "added": model.d_model, "concatenated": model.d_pos}[model.positions]
    if width:
        found.append(_dense("positions", (model.context, width)))
    found.append(_dense("norm.weight", (model.d_model,)))
    found += _linear("unembedding", model.d_model, model.vocab_size, "unembedding", None, model.biases)
    if model.bigram:
        found.append(Parameter("bigram.weight", (model.vocab_size, model.vocab_size), "bigram table", sparse=False))
    return tuple(found)


def _attention(model: ModelConfig, name: str) -> list[Parameter]:
    found = _norms(model, name)
    for matrix in ("w_q", "w_k", "w_v"):
        found += _linear(f"{name}.{matrix}", model.d_in, model.d_model, "attention", "rows", model.biases)
    found += _linear(f"{name}.w_o", model.d_model, model.d_model, "attention", "columns", model.biases)
    return found + ([_dense(f"{name}.sink", (model.n_heads,))] if model.sink else [])


def _mlp(model: ModelConfig, name: str) -> list[Parameter]:
    found = _norms(model, name)
    found += _linear(f"{name}.w_in", model.d_in, model.d_mlp, "MLP", "rows", model.biases)
    return found + _linear(f"{name}.w_out", model.d_mlp, model.d_model, "MLP", "columns", model.biases)


def _norms(model: ModelConfig, name: str) -> list[Parameter]:
    found = [_dense(f"{name}.norm.weight", (model.d_model,))]
    return found + ([_dense(f"{name}.norm_pos.weight", (model.d_pos,))] if model.positions == "concatenated" else [])


def _linear(name: str, d_in: int, d_out: int, group: Group, floor: Floor | None, bias: bool) -> list[Parameter]:
    found = [Parameter(f"{name}.weight", (d_out, d_in), group, floor=floor)]
    return found + ([Parameter(f"{name}.bias", (d_out,), "biases")] if bias else [])


def _dense(name: str, shape: tuple[int, ...]) -> Parameter:
    return Parameter(name, shape, "other dense", sparse=False)


def final_nonzeros(parameter: Parameter, config: TrainConfig) -> int:
    """Nonzeros that a parameter keeps after the last step; a dense one counts in full."""
    if not parameter.sparse:
        return parameter.entries
    return density.n_kept(parameter.entries, density.density_of(parameter.name, config.steps, config))


def group_sizes(config: TrainConfig) -> tuple[GroupSize, ...]:
    """Entries and final nonzeros of each group that the model has."""
    sums: dict[Group, tuple[int, int]] = {}
    for parameter in parameters(config.model):
        entries, nonzeros = sums.get(parameter.group, (0, 0))
        sums[parameter.group] = entries + parameter.entries, nonzeros + final_nonzeros(parameter, config)
    return tuple(GroupSize(group, *sums[group]) for group in Group.__args__ if group in sums)


def check_floor(config: TrainConfig) -> None:
    """Raise UserError, as training does, when the floor alone needs more nonzeros than the density allows."""
    for parameter in parameters(config.model):
        if parameter.floor is not None:
            channels = parameter.shape[0 if parameter.floor == "rows" else 1]
            density.check_floor(parameter.name, channels, parameter.entries, config)

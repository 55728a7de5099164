"""The seam for new losses: `train()` builds an objective from a factory and minimizes what it returns.

1. An `ObjectiveFactory` is a frozen config. Its `build` gets the model, the run's config and the teacher, if any.
2. It returns an `Objective`, a module: its forward pass takes a batch to `Losses`. A subclass implements `losses`.
3. The parts of the losses are logged in metrics.jsonl, each under its name.
4. Parameters besides the model's come as `ParameterGroup`, each with a learning rate and an epsilon of its own. They
   are checkpointed with the model, as are all buffers, so a resumed run equals an uninterrupted one bit for bit. A
   finished run keeps them as `objective.safetensors` beside the model.

`thinwire.train.language` has the default objective.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from thinwire.config import Config
from thinwire.model.precision import autocast
from thinwire.model.transformer import Transformer
from thinwire.train.config import TrainConfig
from thinwire.train.sparsity import SPARSIFIERS, Sparsifier

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Losses:
    """The loss of a batch and its parts. All are float32 scalars, in nats per token in the default objective."""

    total: Tensor
    """What the step minimizes."""
    parts: dict[str, Tensor] = field(default_factory=dict)
    """What metrics.jsonl logs, by name. The part called `loss` is the one that progress shows; the default is `total`.

    Names of other values of a step, such as `density`, cannot be used.
    """


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters of an objective besides the model's, and how AdamW updates them.

    Their gradients are used as they are: the gradient normalization of the model leaves them out.
    """

    parameters: tuple[nn.Parameter, ...]
    learning_rate: float
    """Peak rate. It rises and decays with the model's, without the L0 factor."""
    epsilon: float = 1e-8
    weight_decay: float = 0.0


class Objective(nn.Module, ABC):
    """Base of the objectives: the model, its sparsifier, and a loss, as one module that is moved and checkpointed.

    A subclass calls `super().__init__(model, config)` and implements `losses`. Every parameter that it registers
    belongs to one of its `groups`, and with several ranks takes part in every forward pass. Frozen models go into
    `references`. The loss must depend on nothing but the batch, parameters and buffers, so that a run can be resumed:
    random numbers come from a generator seeded by a buffer, such as `sparsifier.updates`, the number of updates.
    """

    def __init__(self, model: Transformer, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.model = model
        self.sparsifier: Sparsifier = SPARSIFIERS[config.sparsity](model, config)
        self.references: list[nn.Module] = []
        """Frozen modules that the loss reads, such as a teacher: moved with the rest, not trained, not checkpointed."""

    def forward(self, batch: Tensor, compiled: Transformer | None = None) -> Losses:
        """Losses of a batch of tokens [batch, context + 1], with the sparsifier's penalty, a part called `penalty`."""
        found = self.losses(batch, compiled)
        penalty = self.sparsifier.penalty(self.model)
        return found if penalty is None else Losses(found.total + penalty, {**found.parts, "penalty": penalty})

    @abstractmethod
    def losses(self, batch: Tensor, compiled: Transformer | None = None) -> Losses:
        """Losses of a batch of tokens [batch, context + 1], without the sparsifier's penalty.

        A subclass runs the model through `compute` and passes `compiled` on to it.
        """

    def groups(self) -> tuple[ParameterGroup, ...]:
        """The parameters besides those of the model and of the sparsifier."""
        return ()

    def own_state(self) -> dict[str, Tensor]:
        """Parameters and buffers besides those of the model and of the sparsifier, by name, in their shapes.

        A finished run keeps them as `objective.safetensors`.
        """
        return {name: x for name, x in self.state_dict().items() if not name.startswith(("model.", "sparsifier."))}

    def compute(self, function: Callable[[Transformer], T], compiled: Transformer | None = None) -> T:
        """The result of `function` on the model with the weights of the forward pass, in the config's precision.

        `compiled`, a copy of the model that multiplies with nonzeros only, takes the model's place, in fp32.
        """
        weights = self.sparsifier.effective(self.model)
        device = next(self.model.parameters()).device
        with autocast(self.config.precision if compiled is None else "fp32", device):
            return function(with_weights(self.model, weights) if weights else compiled or self.model)

    @contextmanager
    def materialized(self, step: int) -> Iterator[Transformer]:
        """Within the block, the model whose own parameters are the sparse weights after `step`."""
        latent = self.sparsifier.trains_latent_weights
        before = {name: p.detach().clone() for name, p in self.model.named_parameters()} if latent else {}
        self.sparsifier.materialize(self.model, step)
        try:
            yield self.model
        finally:
            with torch.no_grad():
                for name, value in before.items():
                    self.model.get_parameter(name).copy_(value)


def with_weights(model: M, weights: dict[str, Tensor]) -> M:
    """A copy of a module that computes with `weights` in place of its parameters of these names, in the same shapes.

    Everything else is shared. The copy keeps its weights until the backward pass, where activations may be recomputed;
    `torch.func.functional_call` would have put the parameters back by then.
    """
    copied = copy(model)
    parameters: dict[str, Any] = {name: weights.get(name, value) for name, value in model._parameters.items()}
    copied._parameters = parameters
    copied._modules = {
        child: module and with_weights(module, _of_child(weights, child)) for child, module in model._modules.items()
    }
    return copied


def _of_child(weights: dict[str, Tensor], child: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{child}."): value for name, value in weights.items() if name.startswith(f"{child}.")}


class ObjectiveFactory(Config, ABC):
    """A frozen config that builds an objective. Name and fields are stored with the run, as `objective.json`.

    A run is resumed or returned only for a factory of the same name and fields.
    """

    name: ClassVar[str]
    """Name of the objective."""

    @abstractmethod
    def build(self, model: Transformer, config: TrainConfig, teacher: Transformer | None) -> Objective:
        """The objective of a run that trains `model`. Parameters have to be the same in every call."""

    def identity(self) -> str:
        """Name and fields as JSON."""
        return json.dumps({"name": self.name} | self.model_dump(mode="json"), indent=2)

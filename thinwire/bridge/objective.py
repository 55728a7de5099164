"""A bridge as an objective of `train()`: the maps alone with both models frozen, or together with the sparse model."""

from collections.abc import Sequence
from copy import deepcopy
from typing import ClassVar, Self

import torch
from pydantic import PrivateAttr
from torch import Tensor

from thinwire.bridge.config import LossWeights
from thinwire.bridge.crossings import OwnPass, Pair
from thinwire.bridge.losses import losses_by_junction
from thinwire.bridge.maps import Bridge
from thinwire.bridge.prompts import NO_PROMPTS, Prompts
from thinwire.bridge.targets import Target
from thinwire.compiled.compile import compile_sparse
from thinwire.model.transformer import Transformer, next_token_loss
from thinwire.train.config import TrainConfig
from thinwire.train.objective import Losses, Objective, ObjectiveFactory, ParameterGroup


class BridgeObjective(Objective):
    """The losses of a bridge. Its parts are the sparse model's cross-entropy, `sparse_loss`, and `bridge_losses`.

    Besides, the divergence of every crossing of the step is one, such as `kl_to_sparse/h_2`, named by the sparse point.
    """

    def __init__(self, model: Transformer, config: TrainConfig, start: Bridge, target: Target, how: "Bridging") -> None:
        super().__init__(model, config)
        self.how = how
        self.bridge = deepcopy(start).requires_grad_(True)
        self.target = [target]  # in a list, so that it is no part of this module
        self.frozen: list[Transformer] = []
        if how.frozen:
            model.requires_grad_(False)
            self.frozen = [compile_sparse(model)]
        self.references = [target, *self.frozen]

    def groups(self) -> tuple[ParameterGroup, ...]:
        """The maps."""
        return (ParameterGroup(tuple(self.bridge.parameters()), self.how.rate),)

    def losses(self, batch: Tensor, compiled: Transformer | None = None) -> Losses:
        """Losses of a batch of tokens [batch, context + 1]; `compiled` is as in `compute`."""
        batch = self.how.prompts.among(batch, int(self.sparsifier.updates) + self.config.seed)
        inputs, targets = batch[:, :-1], batch[:, 1:]
        runner = self.frozen[0] if self.frozen else compiled
        parts = self.compute(lambda model: self._parts(model, inputs, targets), runner)
        weights = self.how.weights
        total = weights.nmse * parts["nmse"] + weights.kl_to_sparse * parts["kl_to_sparse"]
        total = total + weights.kl_to_dense * parts["kl_to_dense"]
        return Losses(total if self.how.frozen else total + weights.cross_entropy * parts["sparse_loss"], parts)

    def _parts(self, model: Transformer, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        (target,) = self.target
        pair = Pair.of(target, model)
        own = self._own(pair, inputs)
        loss = next_token_loss(own[1].logits, targets)
        chosen = self._chosen()
        found = losses_by_junction(pair, self.bridge, inputs, own, chosen)
        points = [self.bridge.junctions[i].sparse for i in chosen]
        apart = {
            f"{name}/h_{point}": value.detach()
            for name in ("kl_to_sparse", "kl_to_dense")
            for point, value in zip(points, found[name], strict=True)
        }
        return {"sparse_loss": loss} | {name: each.mean() for name, each in found.items()} | apart

    def _own(self, pair: Pair, inputs: Tensor) -> tuple[OwnPass, OwnPass]:
        """Both models by themselves on tokens [batch, pos], with a gradient where the model is trained."""
        with torch.no_grad():
            dense = pair.own_dense(self.bridge, inputs)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.how.frozen):
            return dense, pair.own_sparse(self.bridge, inputs)

    def _chosen(self) -> Sequence[int]:
        """The junctions of this step, in order: all, or so many drawn at random."""
        n, drawn = len(self.bridge.junctions), self.how.crossings
        if drawn is None or drawn >= n:
            return range(n)
        generator = torch.Generator().manual_seed(int(self.sparsifier.updates) + self.config.seed)
        return sorted(torch.randperm(n, generator=generator, dtype=torch.int64, device="cpu")[:drawn].tolist())


class Bridging(ObjectiveFactory):
    """Builds the objective of a bridge that starts as another one, by the contents of which it is known."""

    name: ClassVar[str] = "bridge"
    frozen: bool
    """Whether both models stay as they are, or the sparse one is trained too."""
    rate: float
    """Peak learning rate of the maps."""
    crossings: int | None
    """See `BridgeConfig`."""
    weights: LossWeights
    """Weights of the losses."""
    start: str
    """Content hash of the bridge that the maps start as."""
    dense: str
    """Content hash of the dense model."""
    tasks: tuple[str, ...] = ()
    """Tasks whose prompts are among the tokens, as `prompts.labels` names them."""
    task_share: float = 0.0
    """See `BridgeConfig`."""
    _bridge: Bridge = PrivateAttr()
    _target: Target = PrivateAttr()
    _prompts: Prompts = PrivateAttr(default=NO_PROMPTS)

    @property
    def prompts(self) -> Prompts:
        """The prompts of the tasks."""
        return self._prompts

    def between(self, bridge: Bridge, target: Target, prompts: Prompts = NO_PROMPTS) -> Self:
        """The same with the bridge that it starts as, the dense model, and the prompts of its tasks."""
        assert (prompts.tasks, prompts.share) == (self.tasks, self.task_share)
        self._bridge, self._target, self._prompts = bridge, target, prompts
        return self

    def build(self, model: Transformer, config: TrainConfig, teacher: Transformer | None) -> BridgeObjective:
        """The objective of a run that trains `model`."""
        return BridgeObjective(model, config, self._bridge, self._target, self)

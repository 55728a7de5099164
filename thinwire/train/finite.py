"""Where a loss that is not finite comes from: the first place of the forward pass, or the first gradient."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from thinwire.errors import UserError
from thinwire.model.precision import autocast
from thinwire.model.transformer import Transformer
from thinwire.sites import ResidPoint, Site
from thinwire.train.objective import Objective
from thinwire.train.rows import is_sharded, local

REMEDY = "lower learning_rate or raise epsilon"


class NotFinite(UserError):
    """A training step came upon an infinity or a NaN; the weights are as they were before it."""


def check_weights(objective: Objective, step: int) -> None:
    """Raise NotFinite, naming the first one, when any parameter after `step` is not finite."""
    for name, parameter in objective.named_parameters():
        if not torch.isfinite(local(parameter)).all():
            shown = name.removeprefix("model.")
            raise NotFinite(f"The weights of {shown} stopped being finite in the update to step {step}; {REMEDY}.")


def not_finite(objective: Objective, batch: Tensor, step: int) -> NotFinite:
    """The error for a batch [batch, context + 1] whose loss or gradient at `step` is not finite.

    Where the weights lie on several ranks the place stays unknown: looking for it takes all of them on one.
    """
    if is_sharded(next(objective.model.parameters())):
        return NotFinite(f"The loss stopped being finite at step {step}; {REMEDY}.")
    return NotFinite(f"The loss stopped being finite at step {step}, first {origin(objective, batch)}; {REMEDY}.")


def origin(objective: Objective, batch: Tensor) -> str:
    """The first place that is not finite, in a phrase such as `at site 0.attn.q`; runs the batch once more.

    Looked at in this order: the embedding, sites and residual points as the forward pass meets them, the logits, the
    loss, then gradients in the order of the model's parameters. Leaves raw gradients behind.
    """
    walk = _Walk(objective.model)
    weights = {f"model.{name}": value for name, value in objective.sparsifier.effective(objective.model).items()}
    with torch.no_grad(), autocast(objective.config.precision, batch.device):
        functional_call(walk, weights, (batch[:, :-1],))
    if walk.found:
        return walk.found
    objective.zero_grad(set_to_none=True)
    losses = objective(batch)
    if not torch.isfinite(losses.total):
        return "in the loss, where the logits still are"
    losses.total.backward()
    for name, parameter in objective.model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"in the gradient of {name}"
    return "in the norm of the gradient, which is too large for its type"


class _Walk(nn.Module):
    """A forward pass that notes the first place that is not finite."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model
        self.found = ""

    def forward(self, tokens: Tensor) -> Tensor:
        resid = self._look("in the embedding", self.model.embed(tokens))
        for index in range(len(self.model.sublayers)):
            resid = self.model.run(resid, start=index, stop=index + 1, tap=self._tap)
            self._look(f"at residual point {ResidPoint(index + 1)}", resid)
        return self._look("in the logits", self.model.unembed(resid, tokens))

    def _tap(self, site: Site, x: Tensor) -> Tensor:
        return self._look(f"at site {site}", x)

    def _look(self, place: str, x: Tensor) -> Tensor:
        if not self.found and not torch.isfinite(x).all():
            self.found = place
        return x

"""Where a value that is not finite first occurs: in the forward pass, or in a gradient."""

import torch
from torch import Tensor

from thinwire.errors import UserError
from thinwire.model.taps import Intervention
from thinwire.model.transformer import Transformer
from thinwire.sites import ResidPoint, Site
from thinwire.train.objective import Objective
from thinwire.train.rows import is_sharded, local

REMEDY = "lower learning_rate or raise epsilon"


class NotFinite(UserError):
    """A training step produced an infinity or a NaN; the weights are as they were before it."""


def check_weights(objective: Objective, step: int) -> None:
    """Raise NotFinite, naming the first one, when any parameter after `step` is not finite."""
    for name, parameter in objective.named_parameters():
        if not torch.isfinite(local(parameter)).all():
            shown = name.removeprefix("model.")
            raise NotFinite(f"The weights of {shown} stopped being finite in the update to step {step}; {REMEDY}.")


def not_finite(objective: Objective, batch: Tensor, step: int) -> NotFinite:
    """The error for a batch of tokens [batch, context + 1] whose loss or gradient at `step` is not finite.

    Where the model is sharded over ranks the error names no place: finding it needs all weights on one rank.
    """
    if is_sharded(next(objective.model.parameters())):
        return NotFinite(f"The loss stopped being finite at step {step}; {REMEDY}.")
    return NotFinite(f"The loss stopped being finite at step {step}, first {origin(objective, batch)}; {REMEDY}.")


def origin(objective: Objective, batch: Tensor) -> str:
    """The first place that is not finite, in a phrase such as `at site 0.attn.q`; runs the batch once more.

    `batch` is [batch, context + 1]. Checked in this order: the embedding, sites and residual points in the order of the
    forward pass, the logits, the loss, then gradients in the order of the model's parameters. The gradients that it
    leaves behind are not normalized.
    """
    with torch.no_grad():
        place = objective.compute(lambda model: _first_not_finite(model, batch[:, :-1]))
    if place:
        return place
    objective.zero_grad(set_to_none=True)
    losses = objective(batch)
    if not torch.isfinite(losses.total):
        return "in the loss, although all logits are finite"
    losses.total.backward()
    for name, parameter in objective.model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"in the gradient of {name}"
    return "in the norm of the gradient, which is too large for its type"


def _first_not_finite(model: Transformer, tokens: Tensor) -> str:
    """The first place of a forward pass of tokens [batch, pos] that is not finite; empty when all are."""
    seen = _FirstNotFinite()
    seen.look("in the logits", model(tokens, tap=seen))
    return seen.place


class _FirstNotFinite(Intervention):
    """Looks at every site and residual point."""

    def __init__(self) -> None:
        super().__init__(sites=None, points=None)
        self.place = ""

    def at_site(self, site: Site, x: Tensor, last: Tensor | None = None) -> Tensor:
        self.look(f"at site {site}", x)
        return x

    def at_point(self, point: ResidPoint, resid: Tensor, last: Tensor | None = None) -> Tensor:
        self.look("in the embedding" if point.index == 0 else f"at residual point {point}", resid)
        return resid

    def look(self, place: str, x: Tensor) -> None:
        """Keep the place if it is the first that is not finite."""
        if not self.place and not torch.isfinite(x).all():
            self.place = place

"""One optimizer step: loss, gradient, normalization, AdamW, sparsity.

A step is exact, or, where the run computes sparsely, restricted to the nonzeros (see `sparse_step`).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thinwire.errors import UserError
from thinwire.model.transformer import Transformer
from thinwire.train.config import TrainConfig
from thinwire.train.density import density_at
from thinwire.train.finite import NotFinite, not_finite
from thinwire.train.language import LANGUAGE_MODELING
from thinwire.train.objective import Losses, Objective, ObjectiveFactory, ParameterGroup
from thinwire.train.ranks import SINGLE, Ranks, averaging
from thinwire.train.rows import is_sharded, local, shard
from thinwire.train.schedule import learning_rate_at, plain_rate_at
from thinwire.train.sparse_step import Support, computes_sparsely, is_exact, mean_share
from thinwire.train.sparsity import OPTIONS


@dataclass
class State:
    """Everything that a step changes; together with the config and the tokens it determines the rest of the run."""

    objective: Objective
    optimizer: torch.optim.AdamW
    step: int = 0
    ranks: Ranks = SINGLE
    """The processes that train it together."""
    wrapper: nn.Module | None = None
    """The objective, wrapped so that a backward pass averages gradients over the ranks; else None."""
    support: Support | None = None
    """Computed from the rest once the run computes sparsely; not checkpointed."""
    support_share: float | None = None
    """RMS of the gradient on the support over that of all entries, a running mean over exact steps of that stage."""

    def losses(self, batch: Tensor) -> Losses:
        """Losses of this rank's share of a batch of tokens [sequences, context + 1]."""
        return self.objective(batch) if self.wrapper is None else self.wrapper(batch)

    @property
    def model(self) -> Transformer:
        """The model whose parameters are trained."""
        return self.objective.model

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        for module in (self.objective, *self.objective.references):
            module.to(device)
        for moments in self.optimizer.state.values():
            for name, value in moments.items():
                moments[name] = value.to(device)


@dataclass(frozen=True)
class StepReport:
    """What one step measured."""

    loss: float
    """The training loss before the update: the part called `loss`, else the total. By default in nats per token."""
    gradient_rms: float
    """Root mean square of the raw gradient over all parameters of the model; estimated in a step on the support."""
    learning_rate: float
    density: float
    """Fraction of nonzeros that a matrix is allowed after the update."""
    parts: dict[str, float]
    """The other parts of the loss, by name, such as `divergence` and `penalty`."""


def new_state(
    config: TrainConfig,
    start: Transformer | None = None,
    teacher: Transformer | None = None,
    ranks: Ranks = SINGLE,
    factory: ObjectiveFactory = LANGUAGE_MODELING,
) -> State:
    """A fresh objective and optimizer; the model has the weights of `start`, if any, else random ones.

    Raises UserError for a sparsifier that does not fit the config, or needs a start where there is none, and in fsdp
    mode for a sparsifier or an objective that does not support it.
    """
    if OPTIONS[config.sparsity].needs_start and start is None:
        raise UserError(f"The sparsifier {config.sparsity} needs a model to start from; give one with --start.")
    model = Transformer(config.model, seed=config.seed)
    if start is not None:
        model.load_state_dict(start.state_dict())
    objective = factory.build(model, config, teacher)
    if ranks.mode != "single":
        for module in (objective, *objective.references):
            module.to(ranks.device)
    if ranks.mode == "fsdp":
        if not objective.sparsifier.options.supports_fsdp:
            raise UserError(f"The sparsifier {config.sparsity} needs whole matrices on every rank; use ddp.")
        if objective.groups():
            raise UserError(
                f"The objective {factory.name} has parameters of its own, which fsdp does not share; use ddp."
            )
        shard(model)
    wrapper = averaging(objective) if ranks.mode == "ddp" else None
    return State(objective, _optimizer(objective, config), ranks=ranks, wrapper=wrapper)


def _optimizer(objective: Objective, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the model's matrices, its other parameters, the sparsifier's, and those of the objective's groups."""
    model, sparsifier = objective.model, objective.sparsifier
    matrices = [p for name, p in model.named_parameters() if _decays(name, p)]
    others = [p for name, p in model.named_parameters() if not _decays(name, p)]
    groups: list[dict[str, Any]] = [{"params": matrices, "weight_decay": config.weight_decay, "own_peak": None}]
    groups += [{"params": others, "weight_decay": 0.0, "own_peak": None}]
    gates = ParameterGroup(tuple(sparsifier.parameters()), sparsifier.learning_rate)
    groups += [_settings(group) for group in (gates, *objective.groups())]
    known = {id(parameter) for group in groups for parameter in group["params"]}
    unknown = [name for name, parameter in objective.named_parameters() if id(parameter) not in known]
    if unknown:
        raise ValueError(f"{', '.join(unknown)} belong to no group of the objective; return them from `groups`.")
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=config.epsilon, fused=True)


def _settings(group: ParameterGroup) -> dict[str, Any]:
    """A parameter group as the optimizer takes it; `own_peak` is the peak of a rate without the L0 factor."""
    settings = {"weight_decay": group.weight_decay, "eps": group.epsilon, "own_peak": group.learning_rate}
    return {"params": list(group.parameters), **settings}


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and name != "bigram.weight"


def train_step(state: State, batch: Tensor, config: TrainConfig) -> StepReport:
    """Advance `state` by one step on a batch of tokens [batch, context + 1].

    Every rank gets the whole batch and computes its share; the report is about the whole batch. Raises NotFinite, a
    UserError, for a loss or gradient that is not finite.
    """
    sparsifier = state.objective.sparsifier
    own = state.ranks.share(batch)
    known = _known_support(state, config)
    support = None if known is None or is_exact(state.step, state.support_share, config) else known
    state.optimizer.zero_grad(set_to_none=True)
    if known is None:
        losses = state.losses(own)
    else:
        losses = state.objective(own, known.exact_model if support is None else known.model)
    losses.total.backward()
    rms = _normalize_exactly(state, known, config) if support is None else _normalize_part(state, support, config)
    measured = _Measured.of(losses, rms, state.ranks)
    if not (math.isfinite(measured.total) and math.isfinite(measured.rms)):
        here = not torch.isfinite(losses.total)
        elsewhere = state.ranks.any(here) and not here
        with state.ranks.together(NotFinite):
            if not elsewhere:
                raise not_finite(state.objective, own, state.step)
    rate = learning_rate_at(state.step, sparsifier.schedule)
    for group in state.optimizer.param_groups:
        peak = group["own_peak"]
        group["lr"] = rate if peak is None else plain_rate_at(state.step, config, peak)
    state.optimizer.step()
    state.step += 1
    if support is None:
        sparsifier.after_step(state.model, state.step)
        state.support = None  # it may have moved
    else:
        support.update(rate)
        sparsifier.updates.fill_(state.step)
    parts = dict(measured.parts)
    return StepReport(
        loss=parts.pop("loss", measured.total),
        gradient_rms=measured.rms,
        learning_rate=rate,
        density=density_at(state.step, sparsifier.schedule),
        parts=parts,
    )


def _known_support(state: State, config: TrainConfig) -> Support | None:
    """The support of the weights as they are; None where the run does not compute sparsely, or not yet."""
    if not computes_sparsely(state.step, config):
        return None
    if state.support is None:
        state.support = Support.of(state.model, state.optimizer, config)
    return state.support


def _normalize_exactly(state: State, known: Support | None, config: TrainConfig) -> Tensor:
    """Normalize the gradient of the whole model, and update the share that a known support has in its RMS."""
    seen = None if known is None else known.rms()
    rms = normalize_gradient([p.grad for p in state.model.parameters() if p.grad is not None], config.gradient)
    if seen is not None:
        state.support_share = mean_share(state.support_share, (seen / rms).item())
    return rms


def _normalize_part(state: State, support: Support, config: TrainConfig) -> Tensor:
    """The same where there is a gradient on the support alone."""
    assert state.support_share is not None
    return normalize_gradient(support.gradients(), config.gradient, state.support_share)


@dataclass(frozen=True)
class _Measured:
    """The losses of the whole batch, and the RMS of the gradient, on the host."""

    total: float
    rms: float
    parts: dict[str, float]

    @classmethod
    def of(cls, losses: Losses, rms: Tensor, ranks: Ranks) -> "_Measured":
        """Means over the ranks, fetched in one transfer; `rms` is a scalar and already that of all ranks."""
        means = ranks.mean(torch.stack([value.detach().float() for value in (losses.total, *losses.parts.values())]))
        *values, last = torch.stack([*means, rms.to(means.device)]).tolist()
        return cls(values[0], last, dict(zip(losses.parts, values[1:], strict=True)))


@torch.no_grad()
def normalize_gradient(gradients: list[Tensor], how: str, share: float = 1.0) -> Tensor:
    """Scale gradients of any shapes in place by their global root mean square, as `TrainConfig.gradient` says.

    Returns that RMS, a scalar; 0 without gradients. Where the gradients are only some of all, `share` is the estimated
    ratio of their RMS to that of all.
    """
    numel = sum(gradient.numel() for gradient in gradients)
    if not numel:
        return torch.zeros((), dtype=torch.float32, device="cpu")  # the objective freezes the model
    norm = torch.nn.utils.get_total_norm(gradients)
    rms = (norm.full_tensor() if is_sharded(norm) else norm) / numel**0.5 / share  # pyright: ignore
    divisor = {"normalize": rms, "clip": rms.clamp(min=1.0), "none": torch.ones_like(rms)}[how]
    for gradient in gradients:
        local(gradient).div_(divisor)
    return rms

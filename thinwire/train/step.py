"""One optimizer step: loss, gradient, normalization, AdamW, sparsity; exact, or on the support (see `sparse_step`)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thinwire.errors import UserError
from thinwire.model.transformer import Transformer
from thinwire.train.config import TrainConfig
from thinwire.train.density import density_at
from thinwire.train.finite import NotFinite, not_finite
from thinwire.train.objective import Losses, Objective
from thinwire.train.ranks import SINGLE, Ranks, averaging
from thinwire.train.rows import is_sharded, local, shard
from thinwire.train.schedule import learning_rate_at, plain_rate_at
from thinwire.train.sparse_step import Support, computes_sparsely, is_exact, mean_share
from thinwire.train.sparsity import SPARSIFIERS

OWN_EPSILON = 1e-8
"""AdamW's epsilon for the parameters of a way to sparsity, whose gradients are tiny and are taken as they are."""


@dataclass
class State:
    """Everything that a step changes; together with the config and the tokens it determines the rest of the run."""

    objective: Objective
    optimizer: torch.optim.AdamW
    step: int = 0
    ranks: Ranks = SINGLE
    """The processes that train it together."""
    wrapper: nn.Module | None = None
    """The objective such that a backward pass averages gradients over the ranks, where it does not by itself."""
    support: Support | None = None
    """Made from the rest once the run computes sparsely; nothing that a checkpoint needs."""
    support_share: float | None = None
    """RMS of the gradient on the support over that of all entries, a running mean over exact steps of that stage."""

    def losses(self, batch: Tensor) -> Losses:
        """Losses on this rank's share of a batch."""
        return self.objective(batch) if self.wrapper is None else self.wrapper(batch)

    @property
    def model(self) -> Transformer:
        """The model whose parameters are trained."""
        return self.objective.model

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        for module in (self.objective, *self.objective.teacher):
            module.to(device)
        for moments in self.optimizer.state.values():
            for name, value in moments.items():
                moments[name] = value.to(device)


@dataclass(frozen=True)
class StepReport:
    """What one step measured."""

    loss: float
    """Training cross-entropy before the update, nats per token."""
    gradient_rms: float
    """Root mean square of the raw gradient over all parameters of the model; estimated in a step on the support."""
    learning_rate: float
    density: float
    """Fraction of nonzeros that a matrix is allowed after the update."""
    divergence: float | None = None
    """From the teacher's predictions, nats per token."""
    penalty: float | None = None
    """What the way to sparsity added to the loss."""


def new_state(
    config: TrainConfig,
    start: Transformer | None = None,
    teacher: Transformer | None = None,
    ranks: Ranks = SINGLE,
) -> State:
    """A fresh objective and optimizer; the weights are those of `start` where one is given.

    Raises UserError for a way to sparsity that does not fit the config, that needs a start where none is given, or that
    does not work on the rows of matrices where ranks hold only these.
    """
    if SPARSIFIERS[config.sparsity].needs_start and start is None:
        raise UserError(f"The {config.sparsity} way to sparsity needs a model to start from; give one with --start.")
    model = Transformer(config.model, seed=config.seed)
    if start is not None:
        model.load_state_dict(start.state_dict())
    objective = Objective(model, config, teacher)
    sparsifier = objective.sparsifier
    if ranks.mode != "single":
        for module in (objective, *objective.teacher):
            module.to(ranks.device)
    if ranks.mode == "fsdp":
        if not sparsifier.shards:
            raise UserError(f"The {config.sparsity} way to sparsity needs whole matrices on every rank; use ddp.")
        shard(model)
    matrices = [p for name, p in model.named_parameters() if _decays(name, p)]
    others = [p for name, p in model.named_parameters() if not _decays(name, p)]
    groups: list[dict] = [{"params": matrices, "weight_decay": config.weight_decay, "own_peak": None}]
    groups += [{"params": others, "weight_decay": 0.0, "own_peak": None}]
    own = list(sparsifier.parameters())
    groups += [{"params": own, "weight_decay": 0.0, "eps": OWN_EPSILON, "own_peak": sparsifier.learning_rate}]
    betas = (config.beta1, config.beta2)
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=config.epsilon, fused=True)
    return State(objective, optimizer, ranks=ranks, wrapper=averaging(objective) if ranks.mode == "ddp" else None)


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and name != "bigram.weight"


def train_step(state: State, batch: Tensor, config: TrainConfig) -> StepReport:
    """Advance `state` by one step on batch [batch, context + 1]. Raises NotFinite, a UserError, when it has to.

    Every rank is given the whole batch and takes its share; what is measured is that of the whole.
    """
    sparsifier = state.objective.sparsifier
    own = state.ranks.share(batch)
    known = _known_support(state, config)
    support = None if known is None or is_exact(state.step, state.support_share, config) else known
    state.optimizer.zero_grad(set_to_none=True)
    if known is None:
        losses = state.losses(own)
    else:
        losses = state.objective(own, known.exact_twin if support is None else known.twin)
    losses.total.backward()
    rms = _normalize_exactly(state, known, config) if support is None else _normalize_part(state, support, config)
    measured = _measured(losses, rms, state.ranks)
    if not (math.isfinite(measured["total"]) and math.isfinite(measured["rms"])):
        met = not torch.isfinite(losses.total)
        elsewhere = state.ranks.any(met) and not met
        with state.ranks.together(NotFinite):
            if not elsewhere:
                raise not_finite(state.objective, own, state.step)
    rate = learning_rate_at(state.step, sparsifier.schedule)
    for group in state.optimizer.param_groups:
        peak = group["own_peak"]  # of parameters to which the L0 factor does not apply
        group["lr"] = rate if peak is None else plain_rate_at(state.step, config, peak)
    state.optimizer.step()
    state.step += 1
    if support is None:
        sparsifier.after_step(state.model, state.step)
        state.support = None  # it may have moved
    else:
        support.update(rate)
        sparsifier.updates.fill_(state.step)
    return StepReport(
        loss=measured["cross_entropy"],
        gradient_rms=measured["rms"],
        learning_rate=rate,
        density=density_at(state.step, sparsifier.schedule),
        divergence=measured.get("divergence"),
        penalty=measured.get("penalty"),
    )


def _known_support(state: State, config: TrainConfig) -> Support | None:
    """The support of the weights as they are; None where the run does not compute sparsely, or not yet."""
    if not computes_sparsely(state.step, config):
        return None
    if state.support is None:
        state.support = Support.of(state.model, state.optimizer, config)
    return state.support


def _normalize_exactly(state: State, known: Support | None, config: TrainConfig) -> Tensor:
    """Normalize the gradient of the whole model; notes the share that a known support has in its RMS."""
    seen = None if known is None else known.rms()
    rms = normalize_gradient([p.grad for p in state.model.parameters() if p.grad is not None], config.gradient)
    if seen is not None:
        state.support_share = mean_share(state.support_share, (seen / rms).item())
    return rms


def _normalize_part(state: State, support: Support, config: TrainConfig) -> Tensor:
    """The same where there is a gradient on the support alone."""
    assert state.support_share is not None
    return normalize_gradient(support.gradients(), config.gradient, state.support_share)


def _measured(losses: Losses, rms: Tensor, ranks: Ranks) -> dict[str, float]:
    """The parts of the losses of the whole batch, and `rms`, on the host, in one transfer."""
    parts = {name: value.detach() for name, value in vars(losses).items() if value is not None}
    means = ranks.mean(torch.stack(list(parts.values())))
    return dict(zip([*parts, "rms"], torch.stack([*means, rms]).tolist(), strict=True))


@torch.no_grad()
def normalize_gradient(gradients: list[Tensor], how: str, share: float = 1.0) -> Tensor:
    """Scale gradients in place by their global root mean square, as `TrainConfig.gradient` says; returns that RMS.

    Where they are only some of the gradients, `share` is what their RMS is thought to be over that of all.
    """
    numel = sum(gradient.numel() for gradient in gradients)
    norm = torch.nn.utils.get_total_norm(gradients)
    rms = (norm.full_tensor() if is_sharded(norm) else norm) / numel**0.5 / share  # pyright: ignore
    divisor = {"normalize": rms, "clip": rms.clamp(min=1.0), "none": torch.ones_like(rms)}[how]
    for gradient in gradients:
        local(gradient).div_(divisor)
    return rms

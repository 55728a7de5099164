"""Measurements of a model during training: losses, dead and unwired channels, kurtosis, nonzeros, turnover.

All but the turnover come from one pass over the validation tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.compiled.compile import compile_sparse
from thinwire.data import Tokens
from thinwire.model.precision import autocast
from thinwire.model.taps import Intervention, Tap, identity
from thinwire.model.transformer import Transformer, next_token_loss
from thinwire.model.weights import sparse_parameters
from thinwire.sites import ResidPoint, Site, all_sites, resid_points
from thinwire.train.config import TrainConfig
from thinwire.train.rows import local, total

INCOMING = {
    "attn.q": ("w_q",),
    "attn.k": ("w_k",),
    "attn.v": ("w_v",),
    "attn.resid_delta": ("w_o",),
    "mlp.post_act": ("w_in",),
    "mlp.resid_delta": ("w_out",),
}
"""Matrices whose rows are the incoming weights of a kind of site."""
OUTGOING = {
    "attn.act_in": ("w_q", "w_k", "w_v"),
    "attn.v": ("w_o",),
    "mlp.act_in": ("w_in",),
    "mlp.post_act": ("w_out",),
}
"""Matrices whose columns are the outgoing weights of a kind of site."""


@dataclass(frozen=True)
class Measurement:
    """One measurement of a model; sites, residual points and parameters go by their names."""

    val_losses: dict[str, float]
    """Held-out cross-entropy per corpus part, nats per token."""
    dead: dict[str, int]
    """Per site, channels that are zero, after AbsTopK, on every one of the validation tokens."""
    unwired: dict[str, int]
    """Per site, channels without a nonzero incoming weight, or without an outgoing one, where such weights exist.

    Biases do not count. q and k have no outgoing weights, since they meet in the attention score.
    """
    kurtosis: dict[str, float | None]
    """Per residual point, the mean over tokens of `kurtosis`; null when no token's stream has any spread."""
    nonzeros_of: dict[str, int]
    """Nonzero entries of each sparse parameter."""


@torch.no_grad()
def measure(model: Transformer, tokens: Tokens, config: TrainConfig) -> Measurement:
    """Measure a model on `validation_tokens` held-out tokens of each corpus part, with the run's kind of compute."""
    compiled = compile_sparse(model) if config.compute == "sparse" else model
    seen = _Observer(compiled)
    losses = validation_losses(compiled, tokens, config, seen)
    return Measurement(
        val_losses=losses,
        dead={str(site): int((~alive).sum()) for site, alive in seen.alive.items()},
        unwired={str(site): unwired(model, site) for site in all_sites(model.config)},
        kurtosis={str(point): seen.mean_kurtosis(point) for point in resid_points(model.config)},
        nonzeros_of={name: int(parameter.count_nonzero()) for name, parameter in sparse_parameters(model)},
    )


@torch.no_grad()
def validation_losses(model: Transformer, tokens: Tokens, config: TrainConfig, tap: Tap = identity) -> dict[str, float]:
    """Held-out cross-entropy in nats per token, per corpus part, on `validation_tokens` tokens of each, under a tap."""
    device = next(model.parameters()).device
    precision = config.precision if model.precision == "auto" else model.precision
    losses = {}
    for part in tokens.parts:
        wanted = min(config.validation_tokens, tokens.n_tokens(part, "validation") - 1)
        rows = torch.from_numpy(tokens.validation(part, wanted, config.model.context))
        summed = 0.0
        for batch in rows.split(config.batch_size):
            batch = batch.to(device)
            with autocast(precision, device):
                logits = model(batch[:, :-1], tap=tap)
            summed += next_token_loss(logits, batch[:, 1:]).item() * len(batch)
        losses[part] = summed / len(rows)
    return losses


class _Observer(Intervention):
    """Sees every site and residual point: which channels were ever nonzero, and how peaked the stream was."""

    def __init__(self, model: Transformer) -> None:
        super().__init__(sites=None, points=None)
        device = next(model.parameters()).device
        self.alive = {
            site: torch.zeros(site.width(model.config), dtype=torch.bool, device=device)
            for site in all_sites(model.config)
        }
        n_points = 2 * model.config.n_layers + 1
        self._sums = torch.zeros(n_points, dtype=torch.float64, device=device)
        self._counts = torch.zeros(n_points, dtype=torch.int64, device=device)

    def mean_kurtosis(self, point: ResidPoint) -> float | None:
        """Mean over the tokens seen."""
        count = int(self._counts[point.index])
        return self._sums[point.index].item() / count if count else None

    def at_site(self, site: Site, x: Tensor, last: Tensor | None = None) -> Tensor:
        self.alive[site] |= (x != 0).flatten(0, -2).any(0)
        return x

    def at_point(self, point: ResidPoint, resid: Tensor, last: Tensor | None = None) -> Tensor:
        found = kurtosis(resid)
        spread = ~found.isnan()
        self._sums[point.index] += found.where(spread, 0).sum(dtype=torch.float64)
        self._counts[point.index] += spread.sum()
        return resid


def kurtosis(x: Tensor) -> Tensor:
    """Kurtosis over the last dimension, E[(x - mean)⁴] / variance²: 3 for a normal distribution (not the excess, 0).

    x [..., width] to [...]; NaN where all of x is equal. The fewer channels a residual stream uses, the higher it is
    (Gao et al. 2025, Fig. 10).
    """
    centred = x.float() - x.float().mean(-1, keepdim=True)
    square = (centred / centred.abs().amax(-1, keepdim=True)).square()  # at most 1, so that no power overflows
    return square.square().mean(-1) / square.mean(-1).square()


def unwired(model: Transformer, site: Site) -> int:
    """Channels of a site with no nonzero incoming weight, or no outgoing one, where the site has such weights."""
    sublayer = model.sublayers[site.sublayer]
    missing = torch.zeros(site.width(model.config), dtype=torch.bool, device=next(model.parameters()).device)
    for names, dim in ((INCOMING, 1), (OUTGOING, 0)):
        matrices = [sublayer.get_parameter(f"{name}.weight") for name in names.get(site.kind, ())]
        if matrices:
            missing |= ~torch.stack([(matrix != 0).any(dim) for matrix in matrices]).any(0)
    return int(missing.sum())


def support(model: Transformer) -> dict[str, Tensor]:
    """Where each sparse parameter is nonzero, by name: bool, in its shape; this rank's rows if it is sharded."""
    return {name: local(parameter.detach()) != 0 for name, parameter in sparse_parameters(model)}


def turnover(before: dict[str, Tensor], model: Transformer) -> float:
    """Fraction of the model's nonzero entries that were zero in `before`, an earlier `support` of the model.

    `before` is by name: bool, in the parameter's shape, or this rank's rows of it.
    """
    after = support(model)
    entered = torch.stack([(now & ~before[name]).sum() for name, now in after.items()])
    there = torch.stack([now.sum() for now in after.values()])
    entered, there = total(torch.stack([entered, there]), model).sum(1).tolist()
    return entered / max(1, there)

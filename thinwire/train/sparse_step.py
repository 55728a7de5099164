"""Steps on the support: the steps between the exact ones of a run that computes sparsely.

The support is the set of nonzero entries. From the end of the anneal on, every `support_every`-th step is exact: it
computes the gradient of every entry, AdamW updates all of them, and the projection may move the support. The steps
between update only the support and the parameters that stay dense, without a projection. Both use sparse kernels.

1. Loss and gradient come from a compiled model (`compile_sparse`), whose matrices are the values on the support and
   whose dense parameters are the model's own. In an exact step it is that of `whole_gradient`.
2. The gradient is divided by an estimate of its RMS over all entries: the RMS over the support, divided by the ratio of
   the two, the share. So on average the gradient of an entry is as large as in an exact step. The share is a running
   mean over exact steps, because the RMS over all entries varies by a factor of 3 from batch to batch.
3. AdamW updates the support and the dense parameters, with the moments of the exact steps. New values and moments are
   written back into the model and the optimizer at once, so a checkpoint needs only these and the share.

Off the support the moments do not change: they are means over exact steps. If the steps between decayed them too, they
would be little but the last gradient, and the support would follow single batches.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thinwire.compiled.compile import BREAK_EVEN, compile_sparse
from thinwire.compiled.modules import Sparse
from thinwire.engine.spmm.operators import has_kernels
from thinwire.errors import UserError
from thinwire.model.transformer import Transformer
from thinwire.model.weights import sparse_parameters
from thinwire.train.config import TrainConfig
from thinwire.train.density import is_annealed
from thinwire.train.whole_gradient import with_whole_gradients

NEVER_ZERO = torch.finfo(torch.float32).tiny
"""Replaces a value that becomes zero, so that the support is always where the weights are not zero."""
SHARE_MEMORY = 0.75
"""Weight of the earlier exact steps in the running mean of shares."""


def computes_sparsely(step: int, config: TrainConfig) -> bool:
    """Whether the run uses sparse compute and is annealed after `step`."""
    return config.compute == "sparse" and step > 0 and is_annealed(step, config)


def is_exact(step: int, share: float | None, config: TrainConfig) -> bool:
    """Whether the step after `step` is exact, in a run that computes sparsely there; without a share it has to be."""
    return share is None or step % config.support_every == 0


def mean_share(before: float | None, share: float) -> float:
    """The running mean of shares, updated by another one."""
    return share if before is None else SHARE_MEMORY * before + (1 - SHARE_MEMORY) * share


def check_compute(config: TrainConfig, device: str) -> None:
    """Raise UserError when the config wants sparse compute on a device without kernels, or where it would be slower."""
    if config.compute == "dense":
        return
    place = torch.device(device)
    if not has_kernels(place):
        raise UserError(f"There are no sparse kernels to train with on '{device}'; set compute to dense.")
    if config.density >= BREAK_EVEN[place.type]:
        raise UserError(
            f"On '{device}' sparse compute gains from a density below {BREAK_EVEN[place.type]:g} on, "
            f"not at {config.density:g}; set compute to dense."
        )


@dataclass(frozen=True)
class Entries:
    """A parameter on its support."""

    parameter: nn.Parameter
    """The model's."""
    moments: tuple[Tensor, Tensor]
    """The optimizer's for the whole parameter."""
    indices: Tensor
    """Of its nonzero entries, flattened row by row. int64 [entries]"""
    values: nn.Parameter
    """float32 [entries], updated by the optimizer of the support."""
    shared: bool
    """Whether the compiled model computes with `parameter`, which is too dense for a sparse kernel, not `values`."""

    def take_gradient(self) -> None:
        """Move the gradient of a shared parameter to `values`."""
        if self.shared and self.parameter.grad is not None:
            self.values.grad = self.parameter.grad.flatten()[self.indices]
            self.parameter.grad = None

    def put_back(self, moments: tuple[Tensor, Tensor]) -> None:
        """Write the values and their moments, each [entries], back into the parameter and its moments."""
        self.values.masked_fill_(self.values == 0, NEVER_ZERO)
        for whole, packed in zip((self.parameter, *self.moments), (self.values, *moments), strict=True):
            whole.view(-1).index_copy_(0, self.indices, packed)


@dataclass(frozen=True)
class Support:
    """The nonzeros of a model as parameters of their own, and compiled models that use them; until they may move."""

    model: Transformer
    """A compiled model whose matrices are the values on the support."""
    exact_model: Transformer
    """The same for exact steps: its gradients are those of the whole parameters."""
    entries: tuple[Entries, ...]
    dense: tuple[nn.Parameter, ...]
    """Parameters of the model that are not sparse; its optimizer steps on them."""
    optimizer: torch.optim.AdamW
    """Of the values."""

    @classmethod
    @torch.no_grad()
    def of(cls, model: Transformer, optimizer: torch.optim.AdamW, config: TrainConfig) -> "Support":
        """The present support of a model, with the moments and the settings of its optimizer."""
        compiled = compile_sparse(model)
        assert compiled is not model
        sparse = {name: p for name, p in sparse_parameters(model) if config.sparse_biases or not name.endswith(".bias")}
        packed = {f"{name}.weight": module for name, module in compiled.named_modules() if isinstance(module, Sparse)}
        for name, parameter in model.named_parameters():
            if name not in packed:
                owner, _, last = name.rpartition(".")
                compiled.get_submodule(owner).register_parameter(last, parameter)
        entries = tuple(
            _entries(parameter, packed.get(name), optimizer.state[parameter]) for name, parameter in sparse.items()
        )
        return cls(
            model=compiled,
            exact_model=with_whole_gradients(model, compiled, config.precision),
            entries=entries,
            dense=tuple(p for name, p in model.named_parameters() if name not in sparse),
            optimizer=_optimizer(entries, optimizer),
        )

    def gradients(self) -> list[Tensor]:
        """Gradients after a backward pass of `model`: of the values, each [entries], and of dense parameters."""
        for entries in self.entries:
            entries.take_gradient()
        trained = [*(entries.values for entries in self.entries), *self.dense]
        return [parameter.grad for parameter in trained if parameter.grad is not None]

    def rms(self) -> Tensor:
        """Root mean square, a scalar, of an exact step's gradient over the support and the dense parameters."""
        seen = [
            entries.parameter.grad.flatten()[entries.indices]
            for entries in self.entries
            if entries.parameter.grad is not None
        ]
        seen += [parameter.grad for parameter in self.dense if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(seen) / sum(gradient.numel() for gradient in seen) ** 0.5

    @torch.no_grad()
    def update(self, rate: float) -> None:
        """AdamW at this rate on the values; updates the model and its moments too."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        for entries in self.entries:
            moments = self.optimizer.state[entries.values]
            entries.put_back((moments["exp_avg"], moments["exp_avg_sq"]))
        self.optimizer.zero_grad(set_to_none=True)


def _entries(parameter: nn.Parameter, module: Sparse | None, state: dict[str, Tensor]) -> Entries:
    if module is None:
        indices = parameter.flatten().nonzero().flatten()
        values = nn.Parameter(parameter.flatten()[indices])
    else:
        indices = module.pattern.row_of_each() * module.shape[1] + module.pattern.indices.long()  # pyright: ignore
        values = nn.Parameter(module.values.detach())
        module.values = values
    return Entries(parameter, (state["exp_avg"], state["exp_avg_sq"]), indices, values, shared=module is None)


def _optimizer(entries: tuple[Entries, ...], whole: torch.optim.AdamW) -> torch.optim.AdamW:
    """An optimizer of the values with the settings, moments and step counts that `whole` has for their parameters."""
    values = {id(each.parameter): each.values for each in entries}
    groups = []
    for group in whole.param_groups:
        settings = {name: setting for name, setting in group.items() if name in ("weight_decay", "betas", "eps")}
        chosen = [values[id(p)] for p in group["params"] if id(p) in values]
        groups += [{"params": chosen, **settings}] if chosen else []
    optimizer = torch.optim.AdamW(groups, lr=0.0, fused=True)
    for each in entries:
        mean, square = (moment.flatten()[each.indices] for moment in each.moments)
        # the count is the parameter's own tensor, so a step here is counted there too
        count = whole.state[each.parameter]["step"]
        optimizer.state[each.values] = {"step": count, "exp_avg": mean, "exp_avg_sq": square}
    return optimizer

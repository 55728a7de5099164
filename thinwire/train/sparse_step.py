"""Steps on the support: what lies between the exact steps of a run that computes sparsely.

From the end of the anneal on, every `support_every`-th step is exact: it has the gradient of every entry, AdamW steps
on all of them, and the projection, which the others leave out, may move the support. The steps between see nothing but
the support, the entries that are not zero, beside the parameters that stay dense. Both kinds run on sparse kernels.

1. Loss and gradient of a twin (`compile_sparse`) whose matrices are the values on the support, and whose dense
   parameters are the model's own. In an exact step the twin is that of `whole_gradient`.
2. The gradient is divided by an estimate of its RMS over all entries: that over the support, divided by the share that
   it has in the other, a running mean over exact steps. On average the gradient of an entry on the support is then as
   large as in an exact step. The share of the last exact step alone would not do: the RMS over all entries varies by a
   factor of 3 from batch to batch, whatever that over the support does, and a whole period would keep to one of them.
3. AdamW on the support and on the dense parameters, with the moments of the exact steps; new values and moments go back
   into the model and the optimizer at once, so that these, and the share, are all there is to a run.

Off the support moments stand still: they are means over exact steps. Decayed by the steps between as well they would
hold little but the last gradient, and the support would follow single batches.
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
"""What a value becomes that comes to be zero, so that the support is where the weights are not zero at every step."""
SHARE_MEMORY = 0.75
"""Weight of the earlier exact steps in the running mean of shares."""


def computes_sparsely(step: int, config: TrainConfig) -> bool:
    """Whether the run is to compute sparsely and has been annealed after `step`."""
    return config.compute == "sparse" and step > 0 and is_annealed(step, config)


def is_exact(step: int, share: float | None, config: TrainConfig) -> bool:
    """Whether the step after `step` is exact, if the run computes sparsely there; without a share it has to be."""
    return share is None or step % config.support_every == 0


def mean_share(before: float | None, share: float) -> float:
    """The running mean of shares once another one is known."""
    return share if before is None else SHARE_MEMORY * before + (1 - SHARE_MEMORY) * share


def check_compute(config: TrainConfig, device: str) -> None:
    """Raise UserError when a run is to compute sparsely on a device where it cannot, or where that would be slower."""
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
    places: Tensor
    """Where it is not zero, row by row. int64 [entries]"""
    values: nn.Parameter
    """[entries], what the optimizer of the support steps on."""
    shared: bool
    """Whether the twin computes with the model's parameter, too dense for a sparse kernel, instead of with `values`."""

    def take_gradient(self) -> None:
        """Give `values` their gradient, where the backward pass left it in the parameter."""
        if self.shared and self.parameter.grad is not None:
            self.values.grad = self.parameter.grad.flatten()[self.places]
            self.parameter.grad = None

    def put_back(self, moments: tuple[Tensor, Tensor]) -> None:
        """Write the values, and their moments, where they come from."""
        self.values.masked_fill_(self.values == 0, NEVER_ZERO)
        for whole, packed in zip((self.parameter, *self.moments), (self.values, *moments), strict=True):
            whole.view(-1).index_copy_(0, self.places, packed)


@dataclass(frozen=True)
class Support:
    """The nonzeros of a model as parameters of their own, and the twin that computes with them; of one period."""

    twin: Transformer
    exact_twin: Transformer
    """The same for exact steps: it has gradients for the model's parameters."""
    entries: tuple[Entries, ...]
    dense: tuple[nn.Parameter, ...]
    """Parameters of the model that are not sparse; its optimizer steps on them."""
    optimizer: torch.optim.AdamW
    """Of the values."""

    @classmethod
    @torch.no_grad()
    def of(cls, model: Transformer, optimizer: torch.optim.AdamW, config: TrainConfig) -> "Support":
        """The support of a model as it is, with the moments and the settings of its optimizer."""
        twin = compile_sparse(model)
        assert twin is not model
        sparse = {name: p for name, p in sparse_parameters(model) if config.sparse_biases or not name.endswith(".bias")}
        packed = {f"{name}.weight": module for name, module in twin.named_modules() if isinstance(module, Sparse)}
        for name, parameter in model.named_parameters():
            if name not in packed:
                owner, _, last = name.rpartition(".")
                twin.get_submodule(owner).register_parameter(last, parameter)
        entries = tuple(
            _entries(parameter, packed.get(name), optimizer.state[parameter]) for name, parameter in sparse.items()
        )
        return cls(
            twin=twin,
            exact_twin=with_whole_gradients(model, twin, config.precision),
            entries=entries,
            dense=tuple(p for name, p in model.named_parameters() if name not in sparse),
            optimizer=_optimizer(entries, optimizer),
        )

    def gradients(self) -> list[Tensor]:
        """Gradients that the backward pass of the twin left: of the values, and of dense parameters."""
        for entries in self.entries:
            entries.take_gradient()
        trained = [*(entries.values for entries in self.entries), *self.dense]
        return [parameter.grad for parameter in trained if parameter.grad is not None]

    def rms(self) -> Tensor:
        """Root mean square of the gradient that an exact step left in the model, over what a step here would see."""
        seen = [
            entries.parameter.grad.flatten()[entries.places]
            for entries in self.entries
            if entries.parameter.grad is not None
        ]
        seen += [parameter.grad for parameter in self.dense if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(seen) / sum(gradient.numel() for gradient in seen) ** 0.5

    @torch.no_grad()
    def update(self, rate: float) -> None:
        """AdamW at this rate on the values; the model and its moments follow."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        for entries in self.entries:
            moments = self.optimizer.state[entries.values]
            entries.put_back((moments["exp_avg"], moments["exp_avg_sq"]))
        self.optimizer.zero_grad(set_to_none=True)


def _entries(parameter: nn.Parameter, module: Sparse | None, state: dict[str, Tensor]) -> Entries:
    if module is None:
        places = parameter.flatten().nonzero().flatten()
        values = nn.Parameter(parameter.flatten()[places])
    else:
        places = module.pattern.row_of_each() * module.shape[1] + module.columns.long()  # pyright: ignore
        values = nn.Parameter(module.values.detach())
        module.values = values
    return Entries(parameter, (state["exp_avg"], state["exp_avg_sq"]), places, values, shared=module is None)


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
        mean, square = (moment.flatten()[each.places] for moment in each.moments)
        # the count is the parameter's own tensor: a step here counts for it too
        count = whole.state[each.parameter]["step"]
        optimizer.state[each.values] = {"step": count, "exp_avg": mean, "exp_avg_sq": square}
    return optimizer

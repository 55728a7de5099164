"""Microbenchmarks: every kernel of a training step in isolation, at a given size, ready to be timed.

A kernel is the code that the step runs, called as in the step: through autograd, under autocast where the step uses it,
on buffers that differ from call to call. `BUILDERS` has an entry for every forward family of `thinwire.train.rates`.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from thinwire.model.abstopk import abstopk
from thinwire.model.attention import attend
from thinwire.model.config import ModelConfig
from thinwire.model.weights import floor_dim
from thinwire.train.config import TrainConfig
from thinwire.train.l0 import project_values
from thinwire.train.rates import Size
from thinwire.train.step import State, new_state, normalize_gradient

COPIES = 4
"""Sets of operands that calls use in turn: small ones stay in the cache, as in a step, and large ones do not."""
COPIED_BYTES = 2**26
"""Fewer sets if four would take more memory than this."""
ACTIVE = 4
"""AbsTopK keeps one in this many, as by default."""
DENSITY = 1 / 64
FLOOR = 4


@dataclass(frozen=True)
class Microbenchmark:
    """Calls of one kernel at one size."""

    forward: Sequence[Callable[[], object]]
    backward: Sequence[Callable[[], object]] = ()
    """Calls of its backward pass, where it has one."""
    refresh: Callable[[], None] | None = None
    """Restores the operands, without being timed, if calls change them."""


@dataclass(frozen=True)
class Setting:
    """Device and precision of a kernel."""

    device: torch.device
    dtype: torch.dtype = torch.float32

    def random(self, *shape: int, dtype: torch.dtype | None = None, grad: bool = True) -> Tensor:
        """A normally distributed operand [*shape], in the setting's type unless `dtype` is given."""
        return torch.randn(shape, device=self.device, dtype=torch.float32).to(dtype or self.dtype).requires_grad_(grad)

    def autocast(self):
        """The autocast context of the forward pass."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def differentiable(setting: Setting, function: Callable[..., Tensor], operands: Callable[[], tuple]) -> Microbenchmark:
    """The microbenchmark of a function of tensors, and of its gradients with respect to all operands that need one.

    `operands` returns the arguments of one call; tensors and the function's result have any shape.
    """

    def run(own: tuple) -> Tensor:
        with setting.autocast():
            return function(*own)

    first = operands()
    size = sum(t.numel() * t.element_size() for t in first if isinstance(t, Tensor))
    sets = [first, *(operands() for _ in range(min(COPIES, COPIED_BYTES // size) - 1))]
    backward = []
    for own in sets:
        result = run(own)
        wanted = [t for t in own if isinstance(t, Tensor) and t.requires_grad]
        gradient = torch.randn_like(result)
        backward.append(partial(torch.autograd.grad, result, wanted, gradient, retain_graph=True))
    return Microbenchmark([partial(run, own) for own in sets], backward)


def linear(setting: Setting, rows: int, d_in: int, d_out: int) -> Microbenchmark:
    """A matrix [d_out, d_in] and a bias applied to [rows, d_in]; gradients of all three."""
    bias = partial(setting.random, d_out)
    return differentiable(setting, F.linear, lambda: (setting.random(rows, d_in), setting.random(d_out, d_in), bias()))


def selection(setting: Setting, rows: int, width: int) -> Microbenchmark:
    """AbsTopK of every row of [rows, width]."""
    return differentiable(
        setting, lambda x: abstopk(x, max(1, width // ACTIVE)), lambda: (setting.random(rows, width),)
    )


def norm(setting: Setting, rows: int, width: int) -> Microbenchmark:
    """RMSNorm of the fp32 stream [rows, width], and the cast of the result."""

    def function(x: Tensor, gain: Tensor) -> Tensor:
        return F.rms_norm(x, (width,), gain).to(setting.dtype)

    fp32 = partial(setting.random, dtype=torch.float32)
    return differentiable(setting, function, lambda: (fp32(rows, width), fp32(width)))


def gelu(setting: Setting, rows: int, width: int) -> Microbenchmark:
    """GELU of every entry of [rows, width]."""
    return differentiable(setting, F.gelu, lambda: (setting.random(rows, width),))


def add(setting: Setting, rows: int, width: int) -> Microbenchmark:
    """A sublayer's result added to the fp32 stream, both [rows, width]; the gradient of the stream costs nothing."""
    stream = partial(setting.random, rows, width, dtype=torch.float32, grad=setting.dtype == torch.float32)
    return differentiable(setting, torch.add, lambda: (stream(), setting.random(rows, width)))


def attention(
    setting: Setting, sequences: int, heads: int, length: int, d_head: int, sink: bool = False
) -> Microbenchmark:
    """Causal attention, from q, k and v [sequences, length, heads * d_head] to the input of the output matrix."""

    def function(q: Tensor, k: Tensor, v: Tensor, logit: Tensor | None) -> Tensor:
        q, k, v = (x.unflatten(-1, (heads, d_head)).transpose(1, 2) for x in (q, k, v))
        return attend(q, k, v, logit).transpose(1, 2).flatten(2)

    def operands() -> tuple:
        q, k, v = (setting.random(sequences, length, heads * d_head) for _ in range(3))
        return q, k, v, setting.random(heads, dtype=torch.float32) if sink else None

    return differentiable(setting, function, operands)


def embedding(setting: Setting, tokens: int, table: int, width: int) -> Microbenchmark:
    """Rows of a table [table, width] by random tokens, and the table's dense gradient."""

    def operands() -> tuple:
        return torch.randint(table, (tokens,), device=setting.device, dtype=torch.int64), setting.random(table, width)

    return differentiable(setting, F.embedding, operands)


def cross_entropy(setting: Setting, rows: int, width: int) -> Microbenchmark:
    """The loss of fp32 logits over the vocabulary."""

    def operands() -> tuple:
        return setting.random(rows, width), torch.randint(width, (rows,), device=setting.device, dtype=torch.int64)

    return differentiable(setting, F.cross_entropy, operands)


def cast(setting: Setting, entries: int) -> Microbenchmark:
    """fp32 to bf16, and a gradient back."""
    return differentiable(setting, lambda x: x.to(torch.bfloat16), lambda: (setting.random(entries),))


def gradient(setting: Setting, entries: int) -> Microbenchmark:
    """The norm of all gradients, and their division by it."""
    state = _state(setting, entries)
    gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
    return Microbenchmark([lambda: normalize_gradient(gradients, "normalize")])


def optimizer(setting: Setting, entries: int) -> Microbenchmark:
    """One update of all parameters."""
    return Microbenchmark([_state(setting, entries).optimizer.step])


def parameter_count(entries: int) -> ModelConfig:
    """A model of one layer and about this many parameters, a fifth of them in its bigram table."""
    d_head = 8
    width = max(d_head, round((entries / 15) ** 0.5 / d_head) * d_head)
    return ModelConfig(n_layers=1, d_model=width, d_head=d_head, vocab_size=2 * width - width // 4)


def _state(setting: Setting, entries: int) -> State:
    state = new_state(TrainConfig(model=parameter_count(entries), density=1))
    state.to(setting.device)
    for parameter in state.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return state


def projection(setting: Setting, entries: int, name: str = "embedding.weight") -> Microbenchmark:
    """The largest entries of a square matrix that was projected before and has moved a little since."""
    side = max(1, round(entries**0.5))
    kept = max(1, round(side * side * DENSITY), FLOOR * side if floor_dim(name) is not None else 0)
    copies = max(1, min(COPIES, COPIED_BYTES // (4 * side * side)))
    moved = [setting.random(side, side, grad=False) for _ in range(copies)]
    for values in moved:
        project_values(name, values, kept, FLOOR)
        values.add_(setting.random(side, side, grad=False), alpha=0.01)
    work = [values.clone() for values in moved]

    def refresh() -> None:
        for values, before in zip(work, moved, strict=True):
            values.copy_(before)

    return Microbenchmark([partial(project_values, name, values, kept, FLOOR) for values in work], refresh=refresh)


BUILDERS: dict[str, Callable[..., Microbenchmark]] = {
    "linear": linear,
    "abstopk": selection,
    "norm": norm,
    "gelu": gelu,
    "add": add,
    "attention": attention,
    "attention_sink": partial(attention, sink=True),
    "embedding": embedding,
    "cross_entropy": cross_entropy,
    "cast": cast,
    "gradient": gradient,
    "optimizer": optimizer,
    "projection": projection,
    "projection_rows": partial(projection, name="blocks.0.mlp.w_in.weight"),
    "projection_columns": partial(projection, name="blocks.0.mlp.w_out.weight"),
}
"""How to set each family up, from a setting and the numbers of a size."""


def build(family: str, setting: Setting, size: Size) -> Microbenchmark:
    """The microbenchmark of a family at a size."""
    return BUILDERS[family](setting, *size)

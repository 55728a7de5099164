"""The kernels that one training step calls on one rank: a function per family, in the order of the forward pass.

Names and sizes are those of `thinwire.train.rates`. Operations on only a few entries per row are left out.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from thinwire.model.config import ModelConfig
from thinwire.sites import KINDS, Site
from thinwire.train.config import Parallel, TrainConfig
from thinwire.train.plan.inventory import Parameter, final_nonzeros, parameters
from thinwire.train.rates import FAMILIES, Size

Part = Literal[
    "matrix products", "attention", "AbsTopK", "norms and sums", "logits and loss", "casts", "update", "projection",
    "communication",
]  # fmt: skip
Precision = Literal["bf16", "fp32"]
PROJECTING = ("topk",)
"""Sparsifiers that project the weights after every update."""


@dataclass(frozen=True)
class Load:
    """The work of one rank in one step."""

    config: TrainConfig
    precision: Precision
    ranks: int
    parallel: Parallel
    inventory: tuple[Parameter, ...]
    """The model's parameters."""

    @classmethod
    def of(cls, config: TrainConfig, precision: Precision, ranks: int = 1, parallel: Parallel = "ddp") -> "Load":
        """The load of a run's step on each of its ranks."""
        return cls(config, precision, ranks, parallel, parameters(config.model))

    @property
    def model(self) -> ModelConfig:
        return self.config.model

    @property
    def sequences(self) -> int:
        """Sequences of this rank."""
        return self.config.batch_size // self.ranks

    @property
    def rows(self) -> int:
        """Tokens of this rank."""
        return self.sequences * self.model.context

    def own(self, entries: int) -> int:
        """How many of a parameter's entries this rank updates."""
        return -(-entries // self.ranks) if self.parallel == "fsdp" else entries


@dataclass(frozen=True)
class Call:
    """Calls of one kernel at one size."""

    part: Part
    kernel: str
    size: Size
    times: int = 1
    forward: bool = False
    """Whether it belongs to the forward pass."""


def calls(load: Load) -> list[Call]:
    """Every kernel call of one step."""
    families = (products, attention, selection, norms, activations, sums, logits, casts, update, projection)
    return [call for family in families for call in family(load)] + list(communication(load))


def _both(load: Load, part: Part, kernel: str, size: Size, times: int, in_sublayer: bool = True) -> Iterator[Call]:
    """Calls of a kernel and of its backward pass; in sublayers one more forward call if activations are recomputed."""
    name, dot, precision = kernel.partition(".")
    yield Call(part, kernel, size, times, forward=True)
    if load.config.recompute and in_sublayer:
        yield Call(part, kernel, size, times)
    yield Call(part, f"{name}_backward{dot}{precision}", size, times)


def products(load: Load) -> Iterator[Call]:
    """Every weight matrix times every token, and the two products of its backward pass.

    A sublayer's last product is recomputed only if AbsTopK follows, which needs its result.
    """
    model, part, kernel, n = load.model, "matrix products", f"linear.{load.precision}", load.model.n_layers
    selects = [model.n_active(kind, model.d_model) < model.d_model for kind in ("attn.resid_delta", "mlp.resid_delta")]
    for d_in, d_out, times, again in (
        (model.d_in, model.d_model, 3 * n, True),
        (model.d_model, model.d_model, n, selects[0]),
        (model.d_in, model.d_mlp, n, True),
        (model.d_mlp, model.d_model, n, selects[1]),
        (model.d_model, model.vocab_size, 1, False),
    ):
        yield from _both(load, part, kernel, (load.rows, d_in, d_out), times, again)


def attention(load: Load) -> Iterator[Call]:
    """Scores, softmax and weighted sum of all heads."""
    model = load.model
    kernel = f"attention{'_sink' if model.sink else ''}.{load.precision}"
    size = load.sequences, model.n_heads, model.context, model.d_head
    yield from _both(load, "attention", kernel, size, model.n_layers)


def selection(load: Load) -> Iterator[Call]:
    """AbsTopK at every site that has it; at the residual points its input is fp32."""
    model = load.model
    for kind in KINDS:
        width = Site.of(0, kind).width(model)
        if model.n_active(kind, width) < width:
            yield from _both(load, "AbsTopK", f"abstopk.{load.precision}", (load.rows, width), model.n_layers)
    if model.n_active_resid < model.d_model:
        size, times = (load.rows, model.d_model), 2 * model.n_layers + 1
        yield from _both(load, "AbsTopK", "abstopk.fp32", size, times, in_sublayer=False)


def norms(load: Load) -> Iterator[Call]:
    """The RMSNorm of every sublayer and the last one."""
    size, kernel = (load.rows, load.model.d_model), f"norm.{load.precision}"
    yield from _both(load, "norms and sums", kernel, size, 2 * load.model.n_layers)
    yield from _both(load, "norms and sums", kernel, size, 1, in_sublayer=False)


def activations(load: Load) -> Iterator[Call]:
    """The nonlinearity of every MLP; a ReLU is counted as a GELU."""
    size = load.rows, load.model.d_mlp
    yield from _both(load, "norms and sums", f"gelu.{load.precision}", size, load.model.n_layers)


def sums(load: Load) -> Iterator[Call]:
    """Results of sublayers and position embeddings added to the stream, and sums of gradients in the backward pass."""
    model, part = load.model, "norms and sums"
    stream = load.rows, model.d_model
    yield from _both(load, part, f"add.{load.precision}", stream, 2 * model.n_layers, in_sublayer=False)
    yield Call(part, "add.fp32", stream, 2 * model.n_layers)  # the gradient through the sublayer and that around it
    yield Call(
        part, f"add.{load.precision}", (load.rows, model.d_in), 2 * model.n_layers
    )  # the gradients of q, k and v
    if model.positions == "concatenated":
        yield from _both(load, part, f"add.{load.precision}", (load.rows, model.d_in), 2 * model.n_layers)
    elif model.positions == "added":
        yield from _both(load, part, "add.fp32", stream, 1, in_sublayer=False)


def logits(load: Load) -> Iterator[Call]:
    """Rows of the embedding and of the bigram table with their dense gradients, and the loss over the vocabulary."""
    model, part = load.model, "logits and loss"
    table = load.rows, model.vocab_size
    yield from _both(load, part, "embedding", (*table, model.d_model), 1, in_sublayer=False)
    if model.bigram:
        yield from _both(load, part, "embedding", (*table, model.vocab_size), 1, in_sublayer=False)
        yield from _both(load, part, f"add.{load.precision}", table, 1, in_sublayer=False)
    elif load.precision == "bf16":
        yield from _both(load, part, "cast", (math.prod(table),), 1, in_sublayer=False)
    yield from _both(load, part, "cross_entropy", table, 1, in_sublayer=False)


def casts(load: Load) -> Iterator[Call]:
    """Every matrix to bf16, and its gradient back."""
    if load.precision == "bf16":
        for parameter in matrices(load):
            in_sublayer = parameter.group != "unembedding"
            yield from _both(load, "casts", "cast", (parameter.entries,), 1, in_sublayer)


def update(load: Load) -> Iterator[Call]:
    """The gradient's norm and division, and AdamW, over all parameters, the bigram table among them."""
    entries = sum(load.own(parameter.entries) for parameter in load.inventory)
    yield Call("update", "gradient", (entries,))
    yield Call("update", "optimizer", (entries,))


def projection(load: Load) -> Iterator[Call]:
    """The selection of the largest entries of every parameter that becomes sparse."""
    for parameter, entries in projected(load):
        floored = parameter.floor if load.config.floor else None
        yield Call("projection", f"projection_{floored}" if floored else "projection", (entries,))


def communication(load: Load) -> Iterator[Call]:
    """Gradients summed over the ranks; with fsdp also weights gathered, for the forward and the backward pass."""
    if load.ranks > 1:
        yield Call("communication", "all_reduce", (sent_bytes(load),))


def matrices(load: Load) -> list[Parameter]:
    """The parameters that activations are multiplied by."""
    return [p for p in load.inventory if p.group in ("attention", "MLP", "unembedding")]


def projected(load: Load) -> list[tuple[Parameter, int]]:
    """The parameters that are projected after an update, and how many entries of each are on this rank."""
    if load.config.sparsity not in PROJECTING or load.config.density == 1:
        return []
    sparse = [p for p in load.inventory if p.sparse and final_nonzeros(p, load.config) < p.entries]
    return [(parameter, load.own(parameter.entries)) for parameter in sparse]


def selected_entries(load: Load) -> int:
    """Entries that AbsTopK selects from in one forward pass of this rank."""
    return sum(call.times * math.prod(call.size) for call in selection(load) if call.forward)


def sent_bytes(load: Load) -> int:
    """Bytes that this rank sends in a step: a ring all-reduce has two passes over fp32 values, fsdp three."""
    passes = 3 if load.parallel == "fsdp" else 2
    values = 4 * sum(parameter.entries for parameter in load.inventory)
    return passes * values * (load.ranks - 1) // load.ranks


def step_flops(load: Load) -> float:
    """FLOP of a step on all ranks: products with matrices, and attention over the whole context."""
    total = 0.0
    for call in (*products(load), *attention(load)):
        name = call.kernel.partition(".")[0]
        each = FAMILIES[name].amount(*call.size)
        if call.part == "attention":  # two products of two operations, and twice that backward
            each *= call.size[-1] * (8 if name.endswith("_backward") else 4)
        total += call.times * each
    return total * load.ranks

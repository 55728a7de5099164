"""The memory of one rank at the fullest moment of a step: the end of the forward pass.

Activations are counted tensor by tensor: those that autograd saves for the backward pass. Attention patterns are among
them on a CPU, not with the fused attention of a GPU. Temporary buffers of single operations, and freed blocks that the
process keeps, are not counted: on a CPU a measured fraction of all the rest is added for them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from thinwire.sites import HEADED_KINDS
from thinwire.train.plan.inventory import Parameter
from thinwire.train.plan.work import Load, matrices

Kind = Literal["cpu", "cuda"]
FP32 = 4
"""Bytes of a value in fp32, the type of weights, gradients, moments, the residual stream and the loss."""

CPU_OVERHEAD = 0.3
"""Temporary buffers and freed blocks on a CPU, per counted byte: 0.2 to 0.5 in runs of benchmarks/plan_check.py."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank."""

    weights: int
    gradients: int
    moments: int
    """Both of AdamW."""
    copies: int
    """Matrices in bf16, and with fsdp the sublayers that are gathered at the same time."""
    activations: int
    """Saved for the backward pass, attention patterns included, logits not."""
    patterns: int
    """The part of the activations that is attention patterns."""
    logits: int
    """Logits and their log-probabilities in fp32."""
    runtime: int
    """Memory of the process before there is a model."""
    overhead: int = 0
    """Temporary buffers of single operations, and freed blocks that are kept."""

    @property
    def total(self) -> int:
        return self.counted + self.overhead + self.runtime

    @property
    def counted(self) -> int:
        """What is counted tensor by tensor."""
        state = self.weights + self.gradients + self.moments + self.copies
        return state + self.activations + self.logits


def memory(load: Load, kind: Kind, runtime: int) -> Memory:
    """The memory of a rank with this load on a device of this kind, whose processes need `runtime` bytes anyway."""
    state = FP32 * sum(load.own(parameter.entries) for parameter in load.inventory)
    log_probabilities = FP32 * load.rows * load.model.vocab_size
    result = Memory(
        weights=state,
        gradients=state,
        moments=2 * state,
        copies=_copies(load) + _gathered(load),
        activations=activations(load, kind),
        patterns=0 if kind == "cuda" else _per_rank(load, _patterns),
        # two gradients of their size replace the logits while the parameters have no gradients yet
        logits=2 * log_probabilities + max(0, log_probabilities - state),
        runtime=runtime,
    )
    return replace(result, overhead=round(CPU_OVERHEAD * result.counted)) if kind == "cpu" else result


def saved_by_recomputing(load: Load, kind: Kind) -> int:
    """Bytes of activations on one rank that `recompute` would save, or saves if it is on."""
    kept, recomputed = (replace(load, config=load.config.replace(recompute=on)) for on in (False, True))
    return activations(kept, kind) - activations(recomputed, kind)


def activations(load: Load, kind: Kind) -> int:
    """Bytes that autograd saves of a forward pass without the logits; with `recompute`, of one sublayer at a time."""
    model, rows, size = load.model, load.rows, _itemsize(load)
    stream = FP32 * rows * model.d_model
    tokens = 8 * load.sequences * (2 * model.context + 1)
    end = 2 * stream + FP32 * rows + size * rows * model.d_model  # its own stream, normed, gained
    pairs = [(_attention(load, kind), model.n_layers), (_mlp(load), model.n_layers)]
    if load.config.recompute:
        return tokens + end + 2 * model.n_layers * stream + max(inner for inner, _ in pairs)
    return tokens + end + sum((stream + inner) * times for inner, times in pairs)


def _read(load: Load) -> int:
    """The normed stream and its scale, of position embeddings too, and the sublayer's input."""
    model, rows = load.model, load.rows
    positions = FP32 * model.context * (model.d_pos + 1) if model.positions == "concatenated" else 0
    return FP32 * rows * (model.d_model + 1) + positions + _itemsize(load) * rows * model.d_in


def _attention(load: Load, kind: Kind) -> int:
    model, size = load.model, _itemsize(load)
    width = size * load.rows * model.d_model
    selecting = [kind for kind in HEADED_KINDS if model.n_active(kind, model.d_model) < model.d_model]
    written = width if model.n_active("attn.resid_delta", model.d_model) < model.d_model else 0
    heads = (len(selecting) + 3) * width  # as they are selected, and laid out by head
    if kind == "cuda":
        padding = size * load.sequences * model.n_heads * 3 * (model.context + 1) * (model.d_head + 8) - 3 * width
        heads = 3 * width + (padding if model.sink else 0) + FP32 * load.rows * model.n_heads
    return _read(load) + heads + (0 if kind == "cuda" else _patterns(load)) + width + written


def _mlp(load: Load) -> int:
    model, size = load.model, _itemsize(load)
    selects = model.n_active("mlp.post_act", model.d_mlp) < model.d_mlp
    inner = 2 if selects or model.activation == "gelu" else 1  # a ReLU keeps its result, a GELU its input
    written = model.d_model if model.n_active("mlp.resid_delta", model.d_model) < model.d_model else 0
    return _read(load) + size * load.rows * (inner * model.d_mlp + written)


def _patterns(load: Load) -> int:
    """Attention weights of one layer, with the sink's."""
    model = load.model
    return _itemsize(load) * load.rows * model.n_heads * (model.context + model.sink)


def _per_rank(load: Load, of_a_layer: Callable[[Load], int]) -> int:
    return of_a_layer(load) * (1 if load.config.recompute else load.model.n_layers)


def _copies(load: Load) -> int:
    """Matrices in bf16; each is saved whole for the backward pass, also with fsdp."""
    return 2 * sum(p.entries for p in matrices(load)) if load.precision == "bf16" else 0


def _gathered(load: Load) -> int:
    """With fsdp, two gathered sublayers, one that computes and one that is prefetched, and one gradient."""
    if load.parallel == "ddp":
        return 0
    units: dict[str, int] = {}
    for parameter in load.inventory:
        units[_unit(parameter)] = units.get(_unit(parameter), 0) + parameter.entries
    return 3 * FP32 * max(units.values())


def _unit(parameter: Parameter) -> str:
    """The module that fsdp gathers as one: a sublayer, an embedding or the rest."""
    return ".".join(parameter.name.split(".")[: 3 if parameter.name.startswith("blocks.") else 1])


def _itemsize(load: Load) -> int:
    return 2 if load.precision == "bf16" else FP32

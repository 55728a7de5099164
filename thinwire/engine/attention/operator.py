"""Causal attention on feature-major activations, as an operator."""

import numpy as np
import torch
from torch import Tensor

from thinwire.engine.attention import backward, forward
from thinwire.engine.attention.records import AttentionGradients, AttentionInput, AttentionResult
from thinwire.engine.jit import use_threads
from thinwire.engine.layout import floats
from thinwire.engine.operator import operator


def is_supported(k: Tensor) -> bool:
    """Whether the kernel takes keys k [batch, head, pos, d_head]: they come from feature-major activations on a CPU."""
    taken = k.device.type == "cpu" and k.dtype == torch.float32
    return taken and not k.is_contiguous() and k.permute(1, 3, 0, 2).is_contiguous()


def attend_by_feature(q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, queries: Tensor) -> Tensor:
    """Causal attention [batch, head, n_queries, d_head] of q, of that shape, over k and v [batch, head, pos, d_head].

    Query t of sequence b stands at position `queries[b, t]`; `sink` [head] adds exp(sink) to each denominator.
    """
    sink = q.new_empty(0) if sink is None else sink
    needs_backward = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, sink))
    out, _ = attend(*(x.permute(1, 3, 0, 2) for x in (q, k, v)), sink, queries, needs_backward)
    return out.permute(2, 0, 3, 1)


@operator("attend_by_feature")
def attend(
    q: Tensor, k: Tensor, v: Tensor, sink: Tensor, queries: Tensor, needs_backward: bool
) -> tuple[Tensor, Tensor]:
    """Outputs [head, d_head, batch, n_queries], and base-2 logs of softmax denominators [head, batch, n_queries].

    The latter are empty unless the backward pass is needed. q has the shape of the outputs, k and v are
    [head, d_head, batch, pos], `sink` is [head] or empty, `queries` [batch, n_queries].
    """
    heads, _, batch, n = q.shape
    out = torch.empty(q.shape, dtype=torch.float32, device="cpu")
    log_sums = torch.empty((heads, batch, n) if needs_backward else (0, 0, 0), dtype=torch.float32, device="cpu")
    use_threads()
    result = AttentionResult(out.numpy(), log_sums.numpy())
    forward.attend(kernel_input(q, k, v, sink, queries), torch.get_num_threads(), result)
    return out, log_sums


def kernel_input(q: Tensor, k: Tensor, v: Tensor, sink: Tensor, queries: Tensor) -> AttentionInput:
    """The arguments of kernels for q [head, d_head, batch, n_queries], and k and v [head, d_head, batch, pos].

    `sink` is [head] or empty, `queries` [batch, n_queries].
    """
    scale = np.float32(q.shape[1] ** -0.5)
    q, k, v, sink, queries = (x.contiguous() for x in (q, k, v, sink, queries))
    return AttentionInput(floats(q), floats(k), floats(v), floats(sink), queries.numpy(), scale)


@operator("attend_by_feature_backward")
def _attend_backward(
    q: Tensor, k: Tensor, v: Tensor, sink: Tensor, queries: Tensor, out: Tensor, log_sums: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    d_q, d_k, d_v = (torch.empty(x.shape, dtype=torch.float32, device="cpu") for x in (q, k, v))
    d_sink = torch.zeros(len(q), q.shape[2], dtype=torch.float32, device="cpu")
    use_threads()
    result = AttentionResult(floats(out.contiguous()), floats(log_sums.contiguous()))
    backward.attend_backward(
        kernel_input(q, k, v, sink, queries),
        result,
        floats(grad.contiguous()),
        torch.get_num_threads(),
        AttentionGradients(*(x.numpy() for x in (d_q, d_k, d_v, d_sink))),
    )
    return d_q, d_k, d_v, d_sink.sum(1)[: len(sink)]


@attend.register_fake
def _(q, k, v, sink, queries, needs_backward) -> tuple[Tensor, Tensor]:
    heads, d_head, batch, n = q.shape
    return q.new_empty((heads, d_head, batch, n)), q.new_empty((heads, batch, n) if needs_backward else (0, 0, 0))


@_attend_backward.register_fake
def _(q, k, v, sink, queries, out, log_sums, grad) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), sink.new_empty(sink.shape)


def _keep_for_backward(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:-1], *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad: Tensor, _) -> tuple[Tensor | None, ...]:
    return *_attend_backward(*ctx.saved_tensors, grad), None, None


attend.register_autograd(_backward, setup_context=_keep_for_backward)

"""Causal attention on feature-major activations, as an operator."""

import numpy as np
import torch
from torch import Tensor

from thinwire.engine import attention_back_kernels, attention_kernels
from thinwire.engine.jit import use_threads
from thinwire.engine.layout import floats
from thinwire.engine.operator import operator


def lies_by_feature(k: Tensor) -> bool:
    """Whether k [batch, head, pos, d_head] comes from feature-major activations that the kernel takes."""
    taken = k.device.type == "cpu" and k.dtype == torch.float32
    return taken and not k.is_contiguous() and k.permute(1, 3, 0, 2).is_contiguous()


def attend_by_feature(q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, queries: Tensor) -> Tensor:
    """Causal attention [batch, head, n_queries, d_head] of q, of that shape, over k and v [batch, head, pos, d_head].

    Query t of sequence b stands at position `queries[b, t]`; `sink` [head] adds exp(sink) to each denominator.
    """
    sink = q.new_empty(0) if sink is None else sink
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, sink))
    out, _ = attend(*(x.permute(1, 3, 0, 2) for x in (q, k, v)), sink, queries, wanted)
    return out.permute(2, 0, 3, 1)


@operator("attend_by_feature")
def attend(q: Tensor, k: Tensor, v: Tensor, sink: Tensor, queries: Tensor, wanted: bool) -> tuple[Tensor, Tensor]:
    """Outputs [head, d_head, batch, n_queries] and the logs of softmax denominators to base 2 [head, batch, n_queries].

    The latter are empty unless a gradient is `wanted`. q has the shape of the outputs, k and v are
    [head, d_head, batch, pos], `sink` is [head] or empty, `queries` [batch, n_queries].
    """
    heads, d_head, batch, n = q.shape
    out, log_sums = torch.empty(heads, d_head, batch, n), torch.empty((heads, batch, n) if wanted else (0, 0, 0))
    use_threads()
    given = [_numbers(x) for x in (q, k, v, sink)]
    attention_kernels.attend(
        *given,
        queries.contiguous().numpy(),
        np.float32(d_head**-0.5),
        torch.get_num_threads(),
        out.numpy(),
        log_sums.numpy(),
    )
    return out, log_sums


@operator("attend_by_feature_backward")
def _attend_backward(
    q: Tensor, k: Tensor, v: Tensor, sink: Tensor, queries: Tensor, out: Tensor, log_sums: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    d_q, d_k, d_v = torch.empty(q.shape), torch.empty(k.shape), torch.empty(v.shape)
    d_sink = torch.zeros(len(q), q.shape[2])
    use_threads()
    given = [_numbers(x) for x in (q, k, v, sink)]
    rest = [_numbers(x) for x in (out, log_sums, grad)]
    made = [x.numpy() for x in (d_q, d_k, d_v, d_sink)]
    attention_back_kernels.attend_backward(
        *given, queries.contiguous().numpy(), np.float32(q.shape[1] ** -0.5), *rest, torch.get_num_threads(), *made
    )
    return d_q, d_k, d_v, d_sink.sum(1)[: len(sink)]


def _numbers(x: Tensor):
    return floats(x.contiguous())


@attend.register_fake
def _(q, k, v, sink, queries, wanted) -> tuple[Tensor, Tensor]:
    heads, d_head, batch, n = q.shape
    return q.new_empty((heads, d_head, batch, n)), q.new_empty((heads, batch, n) if wanted else (0, 0, 0))


@_attend_backward.register_fake
def _(q, k, v, sink, queries, out, log_sums, grad) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), sink.new_empty(sink.shape)


def _keep_for_backward(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:-1], *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad: Tensor, _) -> tuple[Tensor | None, ...]:
    return *_attend_backward(*ctx.saved_tensors, grad), None, None


attend.register_autograd(_backward, setup_context=_keep_for_backward)

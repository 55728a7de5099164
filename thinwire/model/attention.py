"""The attention sublayer: RMSNorm, q/k/v, causal attention with an optional sink, output projection."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thinwire.engine.attention.operator import attend_by_feature, is_supported
from thinwire.engine.layout import is_feature_major
from thinwire.model.cache import Cache
from thinwire.model.config import ModelConfig
from thinwire.model.norms import Norms, own_scales
from thinwire.model.sublayer import Sublayer
from thinwire.model.taps import Tap


class Attention(Sublayer):
    """Reads the residual stream and returns what attention adds to it; sites act_in, q, k, v, resid_delta."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer, "attn")
        d_heads = config.n_heads * config.d_head
        self.n_heads, self.d_head = config.n_heads, config.d_head
        self.w_q = nn.Linear(config.d_in, d_heads, bias=config.biases, dtype=torch.float32)
        self.w_k = nn.Linear(config.d_in, d_heads, bias=config.biases, dtype=torch.float32)
        self.w_v = nn.Linear(config.d_in, d_heads, bias=config.biases, dtype=torch.float32)
        self.w_o = nn.Linear(d_heads, config.d_model, bias=config.biases, dtype=torch.float32)
        self.sink = nn.Parameter(torch.zeros(config.n_heads, dtype=torch.float32)) if config.sink else None

    def forward(
        self,
        resid: Tensor,
        positions: Tensor | None,
        tap: Tap,
        norms: Norms = own_scales,
        last: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:  # [batch, pos, d_model]
        """With `last` [batch], the result of each sequence's position of that index alone: [batch, 1, d_model].

        With a `cache` the positions follow those that have run with it, and attend to them.
        """
        x = self.read(resid, positions, tap, norms)
        q = self.at("q", x if last is None else at_last(x, last), tap, self.w_q, last=last)
        k = self.at("k", x, tap, self.w_k)
        v = self.at("v", x, tap, self.w_v)
        return self.at("resid_delta", self.heads(q, k, v, last, cache), tap, self.w_o, last=last)

    def heads(self, q: Tensor, k: Tensor, v: Tensor, last: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """What the heads return, concatenated, for q [batch, n_queries, d_heads] and k, v [batch, pos, d_heads]."""
        q, k, v = (self.by_head(x) for x in (q, k, v))
        if cache is not None:
            k, v = cache.extend(self.point, k, v)
        return attend(q, k, v, self.sink, last).transpose(1, 2).flatten(2)

    def by_head(self, x: Tensor) -> Tensor:
        """x [batch, pos, d_heads] head by head: [batch, head, pos, d_head]."""
        return x.view(*x.shape[:2], self.n_heads, self.d_head).transpose(1, 2)


def at_last(x: Tensor, last: Tensor) -> Tensor:
    """x [batch, pos, width] at the positions `last` [batch]: [batch, 1, width], in the memory layout of x."""
    each = torch.arange(len(x), device=x.device, dtype=torch.int64)
    at = x.movedim(-1, 0)[:, each, last].movedim(0, -1) if is_feature_major(x) else x[each, last]
    return at[:, None]


def attend(q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, last: Tensor | None = None) -> Tensor:
    """Causal attention over [batch, head, pos, d_head]; `sink` [head] adds exp(sink) to each softmax denominator.

    With `last` [batch] there is one query a sequence, which stands at that index; otherwise the queries stand at the
    last of the keys' positions.
    """
    if is_supported(k):
        return attend_by_feature(q, k, v, sink, _standing(q, k, last))
    # the fused CPU kernel is several times slower than three plain products at d_head 16, and the fused GPU one takes
    # the queries to stand at the first positions
    if q.device.type == "cpu" or last is not None or q.shape[-2] != k.shape[-2]:
        return attention_pattern(q, k, sink, last) @ v
    if sink is None:
        # torch would not use its fused kernel where a head's channels are not contiguous
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return _fused_with_sink(q, k, v, sink)


def _standing(q: Tensor, k: Tensor, last: Tensor | None) -> Tensor:
    """The position of each query, int64 [batch, n_queries]."""
    if last is not None:
        return last[:, None]
    length = k.shape[-2]
    return torch.arange(length - q.shape[-2], length, device=q.device, dtype=torch.int64).expand(len(q), -1)


def attention_pattern(q: Tensor, k: Tensor, sink: Tensor | None, last: Tensor | None = None) -> Tensor:
    """Attention weights [batch, head, query, key] from q and k [batch, head, pos, d_head]; the sink has the rest.

    With `last` [batch] there is one query a sequence, which stands at that index; otherwise the queries stand at the
    last of the keys' positions.
    """
    length, d_head = k.shape[-2:]
    if last is None:
        queries = q.shape[-2]
        later = torch.ones(queries, length, dtype=torch.bool, device=q.device).triu(1 + length - queries)
    else:
        later = torch.arange(length, device=q.device, dtype=torch.int64) > last[:, None]
        later = later[:, None].expand(-1, q.shape[1], -1).reshape(-1, 1, length)
    mask = torch.zeros(later.shape, dtype=q.dtype, device=q.device).masked_fill(later, torch.finfo(q.dtype).min)
    scores = torch.baddbmm(mask, q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), alpha=d_head**-0.5)
    scores = scores.unflatten(0, q.shape[:2])
    if sink is None:
        return scores.softmax(-1)
    column = sink.to(scores.dtype)[:, None, None].expand(*scores.shape[:-1], 1)
    return torch.cat([scores, column], -1).softmax(-1)[..., :-1]


def _fused_with_sink(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
    """`attend` through the fused kernel.

    The sink is a first key that scores `sink` with every query, through one more channel that is 1 in the queries and
    `sink` in that key alone; its value is zero. A first query keeps the causal mask square and is dropped.
    """
    d_head = q.shape[-1]
    scale = d_head**-0.5
    pad = 8 - d_head % 8  # the extra channel, rounded up to what the fused kernels like
    q, k, v = (F.pad(x, (0, pad, 1, 0)) for x in (q, k, v))
    # compared, not filled in from the host, so that nothing waits for the device
    channel = (torch.arange(d_head + pad, device=q.device, dtype=torch.int64) == d_head).to(q.dtype)
    first = (torch.arange(k.shape[-2], device=q.device, dtype=torch.int64) == 0).to(k.dtype)
    k = k + (sink.to(k.dtype) / scale)[:, None, None] * first[:, None] * channel
    y = F.scaled_dot_product_attention(q + channel, k, v, is_causal=True, scale=scale)
    return y[:, :, 1:, :d_head]

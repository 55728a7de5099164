"""Layers that nobody looks into: all are one operator; with a gradient or a cache, all between two attentions is one.

Taps other than one that holds nodes, hooks on a module, gradients of weights, other norms, matrices that are not sparse
and modules that are not the package's own all make the forward pass go site by site, as `thinwire.model.transformer`
has it; results are the same up to rounding.
"""

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from thinwire.engine import sites
from thinwire.engine.all_layers import Layer, run_layers
from thinwire.engine.layer_parts import Begin, End, Map, Read, Turned
from thinwire.engine.layers import between_attentions
from thinwire.engine.pointwise import Held
from thinwire.model.abstopk import AbsTopK
from thinwire.model.attention import Attention
from thinwire.model.cache import Cache
from thinwire.model.hooks import is_bare, none_on_all
from thinwire.model.mlp import MLP
from thinwire.model.norms import RMSNorm
from thinwire.model.sparse import SparseLinear
from thinwire.model.sublayer import Sublayer
from thinwire.model.taps import Hold, Tap, identity


def goes_unseen(
    resid: Tensor, sublayers: Sequence[Sublayer], keep: nn.Module, positions: Tensor | None, tap: Tap
) -> bool:
    """Whether residual points [batch, pos, d_model], sparsified by `keep`, may pass whole layers in few operators."""
    alike = isinstance(tap, Hold) and len({len(mask) for mask in tap.masks.values()}) == 1  # trials at all sites
    if not (tap is identity or alike):
        return False
    if not none_on_all() or torch.is_autocast_enabled("cpu"):
        return False
    if resid.dtype != torch.float32 or not sites.pays(resid):
        return False
    kinds = [type(sublayer) for sublayer in sublayers]
    if not kinds or kinds != [Attention, MLP] * (len(kinds) // 2):
        return False
    fits = all(len(sublayer.norm.weight) == resid.shape[-1] for sublayer in sublayers)  # others are refused at a site
    if not (fits and all(map(_plain, (*sublayers, keep)))):
        return False
    return not torch.is_grad_enabled() or _only_activations_learn(sublayers, keep, positions)


def _only_activations_learn(sublayers: Sequence[Sublayer], keep: nn.Module, positions: Tensor | None) -> bool:
    """Whether no weight and no position channel learns, and the stream is not sparse: the operators have the rest."""
    assert isinstance(keep, AbsTopK)
    weights: list[Tensor] = [parameter for sublayer in sublayers for parameter in sublayer.parameters()]
    weights += [] if positions is None else [positions]
    return keep.k == keep.width and not any(weight.requires_grad for weight in weights)


def _plain(module: nn.Module) -> bool:
    """Whether nobody has put a hook, or a forward pass, on a module or what is in it, and its maps are sparse."""
    if not is_bare(module):
        return False
    if not module._modules:
        return type(module) in (SparseLinear, RMSNorm, AbsTopK)
    return all(part is None or _plain(part) for part in module._modules.values())


def run_unseen(
    resid: Tensor, sublayers: Sequence[Sublayer], keep: AbsTopK, positions: Tensor | None, cache: Cache | None, tap: Tap
) -> Tensor:
    """Take a residual point [batch, pos, d_model] through whole layers, as `Transformer.run` does."""
    attentions: Sequence[Attention] = sublayers[::2]  # pyright: ignore
    layers = [_layer(*each, resid, positions) for each in zip(attentions, sublayers[1::2], strict=True)]
    held = _held(sublayers, tap)
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (resid, *(x.mask for x in chain(*held))))
    if cache is None and not learns:
        return run_layers(resid, keep.k, layers, held)
    end, heads = None, None
    for attention, layer, nodes in zip(attentions, layers, held, strict=False):
        resid, *asked = between_attentions(resid, heads, keep.k, end, layer.begin, nodes)
        end, heads = layer.end, attention.heads(*asked, cache=cache)
    return between_attentions(resid, heads, keep.k, end, None, held[-1])[0]


def _layer(attention: Attention, mlp: Sublayer, resid: Tensor, positions: Tensor | None) -> Layer:
    """A layer that reads a residual point [batch, pos, d_model]."""
    assert isinstance(mlp, MLP)
    assert isinstance(mlp.w_out, SparseLinear)
    begin = Begin(
        _read(attention, resid, positions),
        _map(attention, "q", attention.w_q),
        _map(attention, "k", attention.w_k),
        _map(attention, "v", attention.w_v),
    )
    end = End(
        _map(attention, "resid_delta", attention.w_o),
        _read(mlp, resid, positions),
        _map(mlp, "post_act", mlp.w_in),
        mlp.nonlinearity,
        _map(mlp, "resid_delta", mlp.w_out),
        Turned(mlp.w_out.rows, mlp.w_out.column_starts, mlp.w_out.order),  # pyright: ignore
    )
    return Layer(begin, attention.n_heads, attention.sink, end)


def _held(sublayers: Sequence[Sublayer], tap: Tap) -> list[list[Held]]:
    """What holds nodes at the sites before the first attention, between each two, and behind the last."""
    if not isinstance(tap, Hold):
        return [[] for _ in range(len(sublayers) // 2 + 1)]
    every = [[tap.at(site) for site in sublayer.sites.values()] for sublayer in sublayers]
    begins = [nodes[:-1] for nodes in every[::2]]  # all but what the attention adds to the stream
    ends = [attention[-1:] + mlp for attention, mlp in zip(every[::2], every[1::2], strict=True)]
    return [end + begin for end, begin in zip([[], *ends], [*begins, []], strict=True)]


def _map(sublayer: Sublayer, site: str, by: nn.Module) -> Map:
    assert isinstance(by, SparseLinear)
    return Map(by.values, by.columns, by.starts, by.bias, _kept(sublayer, site))  # pyright: ignore


def _read(sublayer: Sublayer, resid: Tensor, positions: Tensor | None) -> Read:
    if positions is not None:
        assert sublayer.norm_pos is not None
        positions = sublayer.norm_pos(positions).expand(*resid.shape[:-1], -1)
    return Read(sublayer.norm.weight, sublayer.norm.epsilon(resid.dtype), positions, _kept(sublayer, "act_in"))


def _kept(sublayer: Sublayer, site: str) -> int:
    keep = getattr(sublayer, site)
    assert isinstance(keep, AbsTopK)
    return keep.k

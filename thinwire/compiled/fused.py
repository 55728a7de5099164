"""The fused path of a compiled model: whole layers that nothing reads or changes run in few kernels.

A layer is fused where no tap, no intervention and no hook touches it, or interventions ablate its nodes to constants;
where nothing needs a gradient; and where its matrices are sparse and its modules the package's own. Other layers run
site by site, as `thinwire.model.transformer` has it. Results agree up to rounding.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from thinwire.compiled.modules import SparseLinear
from thinwire.engine.layers.operator import run_layers
from thinwire.engine.layers.parts import Beginning, End, Layer, Map, Read
from thinwire.engine.operator import is_traced
from thinwire.engine.sites import operator as sites
from thinwire.engine.sites.pointwise import Ablation
from thinwire.model.abstopk import AbsTopK
from thinwire.model.attention import Attention
from thinwire.model.fusable import is_bare, no_global_hooks
from thinwire.model.mlp import MLP
from thinwire.model.norms import RMSNorm, own_scales
from thinwire.model.sublayer import Sublayer
from thinwire.model.taps import Intervention, Tap, at_point, check_trials, identity
from thinwire.model.transformer import Pass, Transformer
from thinwire.sites import ResidPoint, Site


class CompiledTransformer(Transformer):
    """A transformer whose matrices are sparse modules: see `thinwire.compiled.compile_sparse`."""

    def _run_sublayers(self, resid: Tensor, start: int, stop: int, how: Pass) -> Tensor:
        index = start
        while index < stop:
            # what an intervention returns may need a gradient, so every stream is checked
            end = _fused_until(self, index, stop, how) if _can_fuse(self, resid, how) else index
            if end > index:
                resid = at_point(how.tap, end, run_fused(self, resid, index, end, how))
                index = end
            else:
                resid = self._run_sublayer(resid, index, how)
                index += 1
        return resid


def _can_fuse(model: Transformer, resid: Tensor, how: Pass) -> bool:
    """Whether kernels of whole layers take a residual point [batch, pos, d_model], and compute what `how` asks for."""
    if not (how.tap is identity or isinstance(how.tap, Intervention)) or is_traced(resid):
        return False
    if how.recompute or how.norms is not own_scales or (torch.is_grad_enabled() and resid.requires_grad):
        return False
    if not no_global_hooks() or torch.is_autocast_enabled("cpu") or _is_transformed():
        return False
    # kernels would read beyond a stream of another width, which raises an error at the first site
    fits = resid.dtype == torch.float32 and resid.shape[-1] == model.config.d_model
    return fits and sites.pays(resid) and _is_plain(model.resid)


def _is_transformed() -> bool:
    """Whether vmap, jvp or another transform is active; operators refuse these, site by site."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _fused_until(model: Transformer, index: int, stop: int, how: Pass) -> int:
    """The sublayer that ends the layers from sublayer `index` on that are fused together; `index` if none is."""
    end, trials = index, set[int]()
    while end % 2 == 0 and end + 2 <= stop and not (end > index and _touches(how.tap, end)):
        layer = model.sublayers[end : end + 2]
        ablations = _ablations(layer, how.tap)
        if ablations is None or _touches(how.tap, end + 1) or not _has_kernels(layer, model.config.d_model):
            break
        trials |= {len(ablation.mask) for ablation in ablations.values()}
        if len(trials) > 1 or _needs_gradient(layer, ablations, how):
            break
        end += 2
    return end


def _touches(tap: Tap, point: int) -> bool:
    """Whether a tap touches residual point h_point."""
    return isinstance(tap, Intervention) and tap.touches(ResidPoint(point))


def _ablations(sublayers: Sequence[Sublayer], tap: Tap) -> dict[Site, Ablation] | None:
    """The ablations of a tap in sublayers, by site; None where it does anything else there."""
    found: dict[Site, Ablation] = {}
    for site in (site for sublayer in sublayers for site in sublayer.sites.values()):
        if isinstance(tap, Intervention) and tap.touches(site):
            ablation = tap.ablation(site)
            if ablation is None:
                return None
            found[site] = ablation
    return found


def _has_kernels(layer: Sequence[Sublayer], d_model: int) -> bool:
    """Whether the modules of a layer, and nothing else, are what kernels compute."""
    # norms of another width raise an error at their site
    return all(len(sublayer.norm.weight) == d_model and _is_plain(sublayer) for sublayer in layer)


def _is_plain(module: nn.Module) -> bool:
    """Whether a module and its parts are the package's own without hooks, and its maps are sparse."""
    if not is_bare(module):
        return False
    if not module._modules:
        return type(module) in (SparseLinear, RMSNorm, AbsTopK)
    parts = (part for part in module._modules.values() if part is not None)
    return type(module) in (Attention, MLP) and all(map(_is_plain, parts))


def _needs_gradient(layer: Sequence[Sublayer], ablations: Mapping[Site, Ablation], how: Pass) -> bool:
    """Whether a weight of a layer, its position channels, or a mask of an ablation has a gradient."""
    if not torch.is_grad_enabled():
        return False
    tensors = [parameter for sublayer in layer for parameter in sublayer.parameters()]
    tensors += [] if how.positions is None else [how.positions]
    tensors += [ablation.mask for ablation in ablations.values()]
    return any(x.requires_grad for x in tensors)


def run_fused(model: Transformer, resid: Tensor, start: int, stop: int, how: Pass) -> Tensor:
    """Take residual point h_start [batch, pos, d_model] through whole layers to h_stop, as `Transformer.run` does.

    The tap may ablate nodes to constants, and nothing else. Raises ValueError where an ablation does not fit its site.
    """
    keep, sublayers = model.resid, model.sublayers[start:stop]
    assert isinstance(keep, AbsTopK)
    layers = [_layer(*each, resid, how.positions) for each in zip(sublayers[::2], sublayers[1::2], strict=True)]
    ablations = _by_passage(sublayers, how.tap)
    for ablation in (each for passage in ablations for each in passage):
        check_trials(ablation, resid)
    if how.cache is None:
        return run_layers(resid, keep.k, layers, ablations)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        attention = sublayers[2 * layer]
        assert isinstance(attention, Attention)
        return attention.heads(q, k, v, cache=how.cache)

    return run_layers(resid, keep.k, layers, ablations, attend)


def _layer(attention: Sublayer, mlp: Sublayer, resid: Tensor, positions: Tensor | None) -> Layer:
    """A layer that reads a residual point [batch, pos, d_model]."""
    assert isinstance(attention, Attention)
    assert isinstance(mlp, MLP)
    beginning = Beginning(
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
    )
    return Layer(beginning, attention.n_heads, attention.sink, end)


def _by_passage(sublayers: Sequence[Sublayer], tap: Tap) -> list[list[Ablation]]:
    """The ablations of the sites before the first attention, between each two, and behind the last.

    Empty where no site of a passage is ablated, otherwise one a site, which may leave all nodes as they are.
    """
    ablations = _ablations(sublayers, tap)
    assert ablations is not None
    widths = {site: getattr(sublayer, name).width for sublayer in sublayers for name, site in sublayer.sites.items()}
    sites = [list(sublayer.sites.values()) for sublayer in sublayers]
    beginnings = [each[:-1] for each in sites[::2]]  # all but what the attention adds to the stream
    ends = [attention[-1:] + mlp for attention, mlp in zip(sites[::2], sites[1::2], strict=True)]
    passages = [end + beginning for end, beginning in zip([[], *ends], [*beginnings, []], strict=True)]
    return [_one_a_site(passage, ablations, widths) for passage in passages]


def _one_a_site(
    sites: Sequence[Site], ablations: Mapping[Site, Ablation], widths: Mapping[Site, int]
) -> list[Ablation]:
    trials = {len(ablations[site].mask) for site in sites if site in ablations}
    if not trials:
        return []
    (n,) = trials
    return [ablations[site] if site in ablations else _no_ablation(n, widths[site]) for site in sites]


def _no_ablation(trials: int, width: int) -> Ablation:
    return Ablation(
        torch.zeros(width, dtype=torch.float32, device="cpu"),
        torch.ones(trials, width, dtype=torch.float32, device="cpu"),
    )


def _map(sublayer: Sublayer, site: str, matrix: nn.Module) -> Map:
    assert isinstance(matrix, SparseLinear)
    return Map(matrix.pattern, matrix.values, matrix.bias, _kept(sublayer, site))


def _read(sublayer: Sublayer, resid: Tensor, positions: Tensor | None) -> Read:
    if positions is not None:
        assert sublayer.norm_pos is not None
        positions = sublayer.norm_pos(positions).expand(*resid.shape[:-1], -1)
    return Read(sublayer.norm.weight, sublayer.norm.eps, positions, _kept(sublayer, "act_in"))


def _kept(sublayer: Sublayer, site: str) -> int:
    keep = getattr(sublayer, site)
    assert isinstance(keep, AbsTopK)
    return keep.k

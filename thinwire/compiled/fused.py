"""The fused path of a compiled model: whole layers that nothing reads or changes run in few kernels.

A layer is fused where no tap, no intervention and no hook touches it, or interventions ablate its nodes to constants;
where nothing needs a gradient; and where its matrices are sparse and its modules the package's own. Other layers run
site by site, as `thinwire.model.transformer` has it. Results agree up to rounding.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

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
from thinwire.model.taps import Intervention, Tap, at_point, identity
from thinwire.model.transformer import Pass, Transformer
from thinwire.sites import ResidPoint, Site


class CompiledTransformer(Transformer):
    """A transformer whose matrices are sparse modules: see `thinwire.compiled.compile_sparse`."""

    def _run_sublayers(self, resid: Tensor, start: int, stop: int, how: Pass) -> Tensor:
        if not self._may_fuse(resid, how):
            return super()._run_sublayers(resid, start, stop, how)
        index = start
        while index < stop:
            end = self._fused_until(index, stop, how)
            if end > index:
                resid = at_point(how.tap, end, run_fused(self, resid, index, end, how))
                index = end
            else:
                resid = self._run_sublayer(resid, index, how)
                index += 1
        return resid

    def _may_fuse(self, resid: Tensor, how: Pass) -> bool:
        """Whether any layer may be fused for residual points [batch, pos, d_model]."""
        if not (how.tap is identity or isinstance(how.tap, Intervention)):
            return False
        if how.recompute or how.norms is not own_scales or (torch.is_grad_enabled() and resid.requires_grad):
            return False
        if not no_global_hooks() or torch.is_autocast_enabled("cpu") or is_traced(resid):
            return False
        return resid.dtype == torch.float32 and sites.pays(resid) and _is_plain(self.resid)

    def _fused_until(self, index: int, stop: int, how: Pass) -> int:
        """The sublayer that ends the layers from sublayer `index` on that are fused together; `index` if none is."""
        end, trials = index, set[int]()
        while end % 2 == 0 and end + 2 <= stop and not (end > index and _touches(how.tap, end)):
            layer = self.sublayers[end : end + 2]
            ablations = _ablations(layer, how.tap)
            if _touches(how.tap, end + 1) or None in ablations or not self._fits(layer):
                break
            trials |= {len(ablation.mask) for ablation in ablations if isinstance(ablation, Ablation)}
            if len(trials) > 1 or self._learns(layer, ablations, how):
                break
            end += 2
        return end

    def _fits(self, layer: Sequence[Sublayer]) -> bool:
        """Whether the modules of a layer, and nothing else, are what kernels compute."""
        widths = {len(sublayer.norm.weight) for sublayer in layer}  # others are refused at a site
        return widths == {self.config.d_model} and all(map(_is_plain, layer))

    def _learns(self, layer: Sequence[Sublayer], ablations: Sequence[Ablation | bool | None], how: Pass) -> bool:
        """Whether a weight of a layer, its position channels, or a mask of an ablation has a gradient."""
        if not torch.is_grad_enabled():
            return False
        tensors = [parameter for sublayer in layer for parameter in sublayer.parameters()]
        tensors += [] if how.positions is None else [how.positions]
        tensors += [ablation.mask for ablation in ablations if isinstance(ablation, Ablation)]
        return any(x.requires_grad for x in tensors)


def _touches(tap: Tap, point: int) -> bool:
    """Whether a tap touches residual point h_point."""
    return isinstance(tap, Intervention) and tap.touches(ResidPoint(point))


def _ablations(layer: Sequence[Sublayer], tap: Tap) -> list[Ablation | bool | None]:
    """What a tap does at each site of a layer: its ablation; False for nothing, None for what kernels do not do."""
    if not isinstance(tap, Intervention):
        return [False] * 8
    sites = [site for sublayer in layer for site in sublayer.sites.values()]
    return [tap.ablation(site) if tap.touches(site) else False for site in sites]


def _is_plain(module: nn.Module) -> bool:
    """Whether a module and its parts have no hooks and no other forward pass, and its maps are sparse."""
    if not is_bare(module):
        return False
    if not module._modules:
        return type(module) in (SparseLinear, RMSNorm, AbsTopK)
    kinds = type(module) in (Attention, MLP)
    return kinds and all(part is None or _is_plain(part) for part in module._modules.values())


def run_fused(model: Transformer, resid: Tensor, start: int, stop: int, how: Pass) -> Tensor:
    """Take residual point h_start [batch, pos, d_model] through whole layers to h_stop, as `Transformer.run` does."""
    keep, sublayers = model.resid, model.sublayers[start:stop]
    assert isinstance(keep, AbsTopK)
    layers = [_layer(*each, resid, how.positions) for each in zip(sublayers[::2], sublayers[1::2], strict=True)]
    ablations = _by_passage(sublayers, how.tap)
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

    None where no site of a passage is ablated, otherwise one for each, which may leave all nodes as they are.
    """
    sites = [list(sublayer.sites.values()) for sublayer in sublayers]
    widths = {site: getattr(sublayer, name).width for sublayer in sublayers for name, site in sublayer.sites.items()}
    beginnings = [each[:-1] for each in sites[::2]]  # all but what the attention adds to the stream
    ends = [attention[-1:] + mlp for attention, mlp in zip(sites[::2], sites[1::2], strict=True)]
    passages = [end + beginning for end, beginning in zip([[], *ends], [*beginnings, []], strict=True)]
    return [_ablations_of(passage, widths, tap) for passage in passages]


def _ablations_of(sites: Sequence[Site], widths: Mapping[Site, int], tap: Tap) -> list[Ablation]:
    if not isinstance(tap, Intervention):
        return []
    found = {site: ablation for site in sites if tap.touches(site) and (ablation := tap.ablation(site)) is not None}
    trials = {len(ablation.mask) for ablation in found.values()}
    if not trials:
        return []
    (n,) = trials
    none = {
        site: Ablation(torch.zeros(widths[site]), torch.ones(n, widths[site])) for site in sites if site not in found
    }
    return [found[site] if site in found else none[site] for site in sites]


def _map(sublayer: Sublayer, site: str, matrix: nn.Module) -> Map:
    assert isinstance(matrix, SparseLinear)
    return Map(matrix.pattern, matrix.values, matrix.bias, _kept(sublayer, site))


def _read(sublayer: Sublayer, resid: Tensor, positions: Tensor | None) -> Read:
    if positions is not None:
        assert sublayer.norm_pos is not None
        positions = sublayer.norm_pos(positions).expand(*resid.shape[:-1], -1)
    return Read(sublayer.norm.weight, sublayer.norm.epsilon(resid.dtype), positions, _kept(sublayer, "act_in"))


def _kept(sublayer: Sublayer, site: str) -> int:
    keep = getattr(sublayer, site)
    assert isinstance(keep, AbsTopK)
    return keep.k

"""What both kinds of sublayer share: the normed read of the residual stream, and the named sites."""

import torch
from torch import Tensor, nn

from thinwire.engine.layout import activations, features, is_feature_major
from thinwire.engine.sites.operator import Nonlinearity
from thinwire.model.abstopk import AbsTopK
from thinwire.model.config import ModelConfig
from thinwire.model.norms import Norms, RMSNorm, own_scales
from thinwire.model.taps import Intervention, Tap, check_trials
from thinwire.sites import KINDS, Site


class Sublayer(nn.Module):
    """Base of attention and MLP. The AbsTopK of site `3.attn.q` is the module `blocks.3.attn.q`."""

    def __init__(self, config: ModelConfig, layer: int, part: str) -> None:
        super().__init__()
        self.norm = RMSNorm(config.d_model, eps=config.norm_eps)
        self.norm_pos = RMSNorm(config.d_pos, eps=config.norm_eps) if config.positions == "concatenated" else None
        self.point = Site.of(layer, f"{part}.act_in").sublayer
        self.sites: dict[str, Site] = {}
        for kind in (kind for kind in KINDS if kind.startswith(part)):
            site = Site.of(layer, kind)
            width = site.width(config)
            name = kind.removeprefix(f"{part}.")
            self.sites[name] = site
            self.add_module(name, AbsTopK(config.n_active(kind, width), width))

    def at(
        self,
        name: str,
        x: Tensor,
        tap: Tap,
        module: nn.Module | None = None,
        nonlinearity: Nonlinearity = "identity",
        last: Tensor | None = None,
    ) -> Tensor:  # [batch, pos, width]
        """Sparsify x [batch, pos, in] at the site called `name`, then tap it.

        With a `module`, a map or norm, the nonlinearity of `module(x)`. `last` [batch] has the positions of x where it
        has one a sequence.
        """
        site, keep = self.sites[name], getattr(self, name)
        if not isinstance(tap, Intervention):
            return tap(site, keep(x, module, nonlinearity))
        if not tap.touches(site):
            return keep(x, module, nonlinearity)
        ablation = tap.ablation(site)
        if ablation is not None:  # part of the operator, where there is one
            check_trials(ablation, x)
            return keep(x, module, nonlinearity, ablation)
        return tap.at_site(site, keep(x, module, nonlinearity), last)

    def read(
        self,
        resid: Tensor,
        positions: Tensor | None,
        tap: Tap,
        norms: Norms = own_scales,
        last: Tensor | None = None,
    ) -> Tensor:  # [batch, pos, d_in]
        """The sublayer's input: the normed residual stream [batch, pos, d_model], and the position channels if any."""
        autocast = torch.is_autocast_enabled(resid.device.type)
        if norms is own_scales and self.norm_pos is None and not autocast:
            return self.at("act_in", resid, tap, self.norm, last=last)
        x = norms(self.point, self.norm, resid)
        if self.norm_pos is not None:
            assert positions is not None
            x = concat_channels(x, self.norm_pos(positions).expand(*x.shape[:-1], -1))
        if autocast:
            # the matrices would cast it anyway; selecting is then cheaper
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return self.at("act_in", x, tap, last=last)


def concat_channels(x: Tensor, y: Tensor) -> Tensor:
    """The channels of x [..., width] and then those of y [..., other width], with the memory layout of x."""
    if is_feature_major(x):
        return activations(torch.cat([features(x), features(y)]), x.shape[:-1])
    return torch.cat([x, y], dim=-1)

"""The MLP sublayer: RMSNorm, input matrix, nonlinearity, output matrix."""

import torch
from torch import Tensor, nn

from thinwire.engine.sites.operator import Nonlinearity
from thinwire.model.config import ModelConfig
from thinwire.model.norms import Norms, own_scales
from thinwire.model.sublayer import Sublayer
from thinwire.model.taps import Tap


class MLP(Sublayer):
    """Reads the residual stream and returns what the MLP adds to it; sites act_in, post_act, resid_delta."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer, "mlp")
        self.w_in = nn.Linear(config.d_in, config.d_mlp, bias=config.biases, dtype=torch.float32)
        self.w_out = nn.Linear(config.d_mlp, config.d_model, bias=config.biases, dtype=torch.float32)
        self.nonlinearity: Nonlinearity = config.activation

    def forward(
        self,
        resid: Tensor,
        positions: Tensor | None,
        tap: Tap,
        norms: Norms = own_scales,
        last: Tensor | None = None,
    ) -> Tensor:  # [batch, pos, d_model]
        """`last` [batch] has the positions of `resid` where it is [batch, 1, d_model], one position a sequence."""
        x = self.read(resid, positions, tap, norms, last)
        x = self.at("post_act", x, tap, self.w_in, self.nonlinearity, last)  # [batch, pos, d_mlp]
        return self.at("resid_delta", x, tap, self.w_out, last=last)

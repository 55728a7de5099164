"""The forward pass, site by site: embed, run a range of sublayers with a tap, unembed."""

from importlib import import_module
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from thinwire.display import Shown
from thinwire.errors import UserError
from thinwire.model.abstopk import AbsTopK
from thinwire.model.attention import Attention, at_last
from thinwire.model.cache import Cache
from thinwire.model.config import ModelConfig
from thinwire.model.mlp import MLP
from thinwire.model.norms import Norms, RMSNorm, own_scales
from thinwire.model.taps import Tap, at_point, identity
from thinwire.sites import describe


class Pass(NamedTuple):
    """How residual points pass sublayers: the arguments of `Transformer.run`, prepared."""

    positions: Tensor | None
    """Position channels [pos, d_pos], where the model concatenates them."""
    tap: Tap
    norms: Norms
    recompute: bool
    cache: Cache | None


class Block(nn.Module):
    """One layer: an attention and an MLP sublayer."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config, layer)


class Transformer(Shown, nn.Module):
    """A decoder whose sublayers are run as a list: sublayer 2·i is the attention of layer i, 2·i + 1 its MLP.

    The module `resid` is the AbsTopK of the residual points, the identity unless the config switches it on.
    """

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        # dtype of matrix products outside training; `auto` is bf16 where the device supports it
        self.precision: Literal["auto", "fp32"] = "auto"
        self.embedding = nn.Embedding(config.vocab_size, config.d_model, dtype=torch.float32)
        width = {"none": 0, "added": config.d_model, "concatenated": config.d_pos}[config.positions]
        self.positions = nn.Parameter(torch.empty(config.context, width, dtype=torch.float32)) if width else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.resid = AbsTopK(config.n_active_resid, config.d_model)
        self.norm = RMSNorm(config.d_model, eps=config.norm_eps)
        self.unembedding = nn.Linear(config.d_model, config.vocab_size, bias=config.biases, dtype=torch.float32)
        self.bigram = nn.Embedding(config.vocab_size, config.vocab_size, dtype=torch.float32) if config.bigram else None
        self._initialize(torch.Generator().manual_seed(seed))

    def __repr__(self) -> str:
        shape = self.config
        texts = f"context {shape.context}, vocab_size {shape.vocab_size}"
        return f"{type(self).__name__}({shape.n_layers} layers, {describe(shape)}, {texts})"

    def compile_sparse(self, below: float | None = None) -> "Transformer":
        """The model on sparse kernels: `thinwire.compiled.compile_sparse(self, below)`."""
        compiled: Any = import_module("thinwire.compiled")  # builds on this room, and is loaded when it is called
        return compiled.compile_sparse(self, below)

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                parameter.zero_()
            elif "norm" not in name and not name.endswith("sink"):
                std = 0.02 if name in ("bigram.weight", "positions") else parameter.shape[-1] ** -0.5
                if name.endswith(("w_o.weight", "w_out.weight")):
                    std /= (2 * self.config.n_layers) ** 0.5
                parameter.normal_(0, std, generator=generator)

    @property
    def sublayers(self) -> list[Attention | MLP]:
        """The 2·n_layers sublayers in the order they run."""
        return [sublayer for block in self.blocks for sublayer in (block.attn, block.mlp)]  # pyright: ignore

    @property
    def norms(self) -> list[RMSNorm]:
        """The norm that each residual point h_0 … h_2L is read through."""
        return [*(sublayer.norm for sublayer in self.sublayers), self.norm]

    def embed(
        self, tokens: Tensor, embedded: Tensor | None = None, cache: Cache | None = None, tap: Tap = identity
    ) -> Tensor:
        """Residual point h_0 [batch, pos, d_model] of tokens [batch, pos]. Raises UserError past the context.

        `embedded` [batch, pos, d_model] stands in for the embeddings of the tokens, which follow those that have run
        with the `cache`. An intervention is applied to h_0.
        """
        earlier = _earlier(cache)
        length = earlier + tokens.shape[1]
        if length > self.config.context:
            raise UserError(
                f"A prompt of {length} tokens does not fit the context of {self.config.context}; shorten it."
            )
        resid = self.embedding(tokens) if embedded is None else embedded
        if self.config.positions == "added":
            assert self.positions is not None
            resid = resid + self.positions[earlier:length]
        return at_point(tap, 0, self.resid(resid))

    def run(
        self,
        resid: Tensor,
        start: int = 0,
        stop: int | None = None,
        tap: Tap = identity,
        recompute: bool = False,
        norms: Norms = own_scales,
        cache: Cache | None = None,
    ) -> Tensor:
        """Take residual point h_start [batch, pos, d_model] through sublayers start … stop - 1 to h_stop.

        `tap` is called at every site on the way; an `Intervention` where it touches, residual points h_(start + 1) …
        h_stop included. `norms` is called for every norm. `recompute` trades time for memory: activations are computed
        again in the backward pass, and taps are then called twice. With a `cache` the positions follow those that have
        run with it, and join them once they have passed the last sublayer.
        """
        assert cache is None or not recompute
        positions = None
        if self.config.positions == "concatenated":
            assert self.positions is not None
            earlier = _earlier(cache)
            positions = self.positions[earlier : earlier + resid.shape[1]]
        first, end, _ = slice(start, stop).indices(2 * self.config.n_layers)
        how = Pass(positions, tap, norms, recompute and torch.is_grad_enabled(), cache)
        resid = self._run_sublayers(resid, first, end, how)
        if cache is not None and first < end == 2 * self.config.n_layers:
            cache.length += resid.shape[1]
        return resid

    def _run_sublayers(self, resid: Tensor, start: int, stop: int, how: "Pass") -> Tensor:
        """`run`, one sublayer after the other; a compiled model overrides it."""
        for index in range(start, stop):
            resid = self._run_sublayer(resid, index, how)
        return resid

    def _run_sublayer(self, resid: Tensor, index: int, how: "Pass") -> Tensor:
        """Take residual point h_index [batch, pos, d_model] through a sublayer, site by site."""
        sublayer = self.sublayers[index]
        if how.recompute:
            delta = checkpoint(sublayer, resid, how.positions, how.tap, how.norms, use_reentrant=False)
        elif how.cache is not None and isinstance(sublayer, Attention):
            delta = sublayer(resid, how.positions, how.tap, how.norms, cache=how.cache)
        else:
            delta = sublayer(resid, how.positions, how.tap, how.norms)
        return at_point(how.tap, index + 1, self.resid(resid + delta))

    def run_last(self, resid: Tensor, last: Tensor, tap: Tap = identity, norms: Norms = own_scales) -> Tensor:
        """Take residual point h_(2·n_layers - 2) [batch, pos, d_model] through the last layer at single positions.

        `last` [batch] has an index a sequence; the result is [batch, 1, d_model]. Taps see [batch, 1, width] at every
        site but the first, `k` and `v` of the attention, whose keys are at all positions. An `Intervention` gets `last`
        at all sites but these three, and at the last two residual points.
        """
        attention, mlp = self.sublayers[-2:]
        positions = here = None
        if self.config.positions == "concatenated":
            assert self.positions is not None
            positions, here = self.positions[: resid.shape[1]], self.positions[last][:, None]
        middle, end = 2 * self.config.n_layers - 1, 2 * self.config.n_layers
        resid = self.resid(at_last(resid, last) + attention(resid, positions, tap, norms, last))
        resid = at_point(tap, middle, resid, last)
        return at_point(tap, end, self.resid(resid + mlp(resid, here, tap, norms, last)), last)

    def unembed(self, resid: Tensor, tokens: Tensor, norms: Norms = own_scales) -> Tensor:
        """Logits [batch, pos, vocab] from the last residual point; tokens [batch, pos] choose the bigram rows."""
        logits = self.unembedding(norms(2 * self.config.n_layers, self.norm, resid))
        return logits if self.bigram is None else logits + self.bigram(tokens)

    def forward(
        self, tokens: Tensor, tap: Tap = identity, recompute: bool = False, norms: Norms = own_scales
    ) -> Tensor:
        """Logits [batch, pos, vocab] of tokens [batch, pos]."""
        resid = self.run(self.embed(tokens, tap=tap), tap=tap, recompute=recompute, norms=norms)
        return self.unembed(resid, tokens, norms)


def _earlier(cache: Cache | None) -> int:
    return 0 if cache is None else cache.length


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token, in float32: logits [batch, pos, vocab], targets [batch, pos]."""
    return F.cross_entropy(logits.float().flatten(0, -2), targets.flatten())

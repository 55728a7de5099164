"""Text from a model: tokens drawn one after another, each step running the new position alone.

1. The prompt runs once and fills a cache of keys and values.
2. Temperature, top-k and top-p, in this order, make probabilities of the logits after the last token.
3. One token a row is drawn, joins the row, and is the next to run.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from thinwire.errors import UserError
from thinwire.model.cache import Cache
from thinwire.model.config import SampleConfig
from thinwire.model.norms import Norms, ScaleRecorder, frozen, own_scales
from thinwire.model.precision import own_modes
from thinwire.model.taps import Tap, identity
from thinwire.model.transformer import Transformer

Forward = Callable[[Tensor], Tensor]
"""`forward(tokens [batch, new]) -> logits [batch, vocab]`: those after the last of the tokens that each call adds."""


@torch.no_grad()
def generate(
    model: Transformer,
    prompts: Tensor,
    config: SampleConfig,
    stop: int | None = None,
    tap: Tap = identity,
    scales_of: Transformer | None = None,
) -> Iterator[Tensor]:
    """Tokens that follow prompts [batch, pos] of equal length, as they are drawn: int64 [batch] a step.

    Row i is drawn with seed + i, independently of other rows. A row that has drawn `stop` gives nothing else from then
    on, and all ends when every row has; or after `config.tokens` steps, or with the token that follows a full context.
    Norms have their own scales, or those of the model `scales_of` on the same tokens.
    Raises UserError for prompts longer than the context, before the first step, and for logits that are not finite.
    """
    assert prompts.shape[1], "there is no token to go on from; begin with the end of text"
    steps = min(config.tokens, model.config.context - prompts.shape[1] + 1)
    forward = _incremental(model, prompts.shape[1] + steps - 1, tap, scales_of)
    return draws(forward, forward(prompts), steps, config, stop)


def _incremental(model: Transformer, room: int, tap: Tap, scales_of: Transformer | None) -> Forward:
    cache, other_cache = Cache(room), Cache(room)

    def forward(tokens: Tensor) -> Tensor:
        norms = own_scales
        if scales_of is not None:
            seen = ScaleRecorder()
            _last_logits(scales_of, tokens, other_cache, identity, seen)
            norms = frozen(seen.scales)
        return _last_logits(model, tokens, cache, tap, norms)

    return forward


def _last_logits(model: Transformer, tokens: Tensor, cache: Cache, tap: Tap, norms: Norms) -> Tensor:
    with own_modes(), torch.no_grad():
        resid = model.run(model.embed(tokens, cache=cache, tap=tap), tap=tap, norms=norms, cache=cache)
        return model.unembed(resid[:, -1:], tokens[:, -1:], norms)[:, 0]


@torch.no_grad()
def draws(forward: Forward, logits: Tensor, steps: int, config: SampleConfig, stop: int | None) -> Iterator[Tensor]:
    """The steps of `generate`, from the logits [batch, vocab] after the prompts on, with any forward pass."""
    generators = [torch.Generator().manual_seed(config.seed + row) for row in range(len(logits))]
    ended = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    for step in range(1, steps + 1):
        points = torch.cat([torch.rand(1, generator=each, dtype=torch.float64, device="cpu") for each in generators])
        drawn = draw(logits, config, points.to(logits.device))
        if stop is not None:
            drawn = drawn.masked_fill(ended, stop)
            ended = drawn == stop
        yield drawn
        if step == steps or ended.all():
            return
        logits = forward(drawn[:, None])


def draw(logits: Tensor, config: SampleConfig, points: Tensor) -> Tensor:
    """One token a row, int64 [batch]: where the cumulative probability passes a point of [0, 1), float64 [batch].

    Logits are [batch, vocab]. Raises UserError for ones that are not finite.
    """
    if not logits.isfinite().all():
        raise UserError("The model gives logits that are not finite numbers; train it again, or take another model.")
    if config.temperature == 0:
        return logits.argmax(-1)
    passed = probabilities(logits, config).cumsum(-1)
    return torch.searchsorted(passed, (points * passed[:, -1])[:, None], right=True)[:, 0]


def probabilities(logits: Tensor, config: SampleConfig) -> Tensor:
    """Probabilities [batch, vocab] in float64, at a temperature above 0; not normalized where top-p has cut some.

    Of tokens equally likely the lowest stay.
    """
    logits = logits.double()
    # the largest becomes 0, so that no temperature is too small to divide by
    logits = (logits - logits.amax(-1, keepdim=True)) / config.temperature
    if config.top_k is None and config.top_p == 1:
        return logits.softmax(-1)
    ranked, order = logits.sort(dim=-1, descending=True, stable=True)
    shares = ranked[:, : config.top_k].softmax(-1)
    before = shares.cumsum(-1) - shares
    shares = shares.masked_fill(before >= config.top_p, 0)
    return torch.zeros_like(logits).scatter(-1, order[:, : config.top_k], shares)

"""A text that grows: with a cache, any chunks of it give what the full pass gives at every position."""

import pytest
import torch
from tiny import SHAPE, tiny_model, tiny_prompts
from torch import Tensor

from thinwire.errors import UserError
from thinwire.model import Cache, Transformer
from thinwire.model.norms import ScaleRecorder
from thinwire.model.taps import Tap, ablate, chain, identity, record
from thinwire.sites import ResidPoint, Site, all_sites, resid_points

VARIANTS = [
    pytest.param({"positions": positions, "sink": sink}, id=f"{positions}-{'sink' if sink else 'nosink'}")
    for positions in ("none", "added", "concatenated")
    for sink in (False, True)
]
VARIANTS += [
    pytest.param({"active_residual": True, "active_fraction": 0.5, "positions": "added"}, id="active_residual"),
    pytest.param({"active_fraction": 1.0, "activation": "relu", "bigram": False}, id="dense"),
]
CHUNKINGS = [[16], [1] * 16, [5, 1, 1, 3, 6], [1, 15], [15, 1], [2, 4, 8, 2]]


def places(model: Transformer) -> list[Site | ResidPoint]:
    return [*all_sites(model.config), *resid_points(model.config)]


def chunked(
    model: Transformer, tokens: Tensor, chunks: list[int], tap: Tap = identity
) -> tuple[Tensor, dict[Site | ResidPoint, Tensor]]:
    """Logits of all positions, run in chunks, and all activations, joined along the positions."""
    cache, seen, joined = Cache(tokens.shape[1]), [], []
    for part in tokens.split(chunks, 1):
        here = record(places(model))
        both = chain(tap, here)
        resid = model.run(model.embed(part, cache=cache, tap=both), tap=both, cache=cache)
        assert resid.shape == (*part.shape, model.config.d_model)
        joined.append(model.unembed(resid, part))
        seen.append(here.values)
    assert cache.length == tokens.shape[1]
    return torch.cat(joined, 1), {place: torch.cat([values[place] for values in seen], 1) for place in seen[0]}


@torch.no_grad()
@pytest.mark.parametrize("changes", VARIANTS)
def test_chunks_are_the_full_pass(changes: dict) -> None:
    """Logits, sites and residual points."""
    model = tiny_model(density=0.5, **changes)
    tokens = tiny_prompts(model, length=SHAPE.context)
    expected = record(places(model))
    logits = model(tokens, tap=expected)
    for chunks in CHUNKINGS:
        ours, seen = chunked(model, tokens, chunks)
        torch.testing.assert_close(ours, logits, rtol=1e-5, atol=1e-5)
        assert list(seen) == list(expected.values)
        for place, values in seen.items():
            torch.testing.assert_close(values, expected.values[place], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_taps_change_what_later_positions_attend_to() -> None:
    model = tiny_model(sink=True)
    tokens = tiny_prompts(model)
    seen = record()
    model(tokens, tap=seen)
    keep = {site: torch.arange(values.shape[-1]) % 3 > 0 for site, values in seen.values.items()}
    tap = ablate(keep, {site: values.mean((0, 1)) for site, values in seen.values.items()})
    ours, _ = chunked(model, tokens, [4, 1, 4], tap)
    torch.testing.assert_close(ours, model(tokens, tap=tap), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours, model(tokens))


@torch.no_grad()
@pytest.mark.parametrize("positions", ["none", "added", "concatenated"])
def test_sublayers_in_two_runs_share_a_cache(positions: str) -> None:
    model = tiny_model(positions=positions)
    tokens = tiny_prompts(model)
    for split in range(len(model.sublayers) + 1):
        cache, logits = Cache(9), []
        for part in tokens.split([4, 2, 3], 1):
            resid = model.run(model.embed(part, cache=cache), stop=split, cache=cache)
            logits.append(model.unembed(model.run(resid, start=split, cache=cache), part))
        torch.testing.assert_close(torch.cat(logits, 1), model(tokens), rtol=1e-5, atol=1e-5)
        assert cache.length == 9


@torch.no_grad()
def test_norms_see_the_new_positions() -> None:
    model = tiny_model()
    tokens = tiny_prompts(model)
    whole, last = ScaleRecorder(), ScaleRecorder()
    model(tokens, norms=whole)
    cache = Cache(9)
    model.run(model.embed(tokens[:, :6], cache=cache), cache=cache)
    model.run(model.embed(tokens[:, 6:], cache=cache), norms=last, cache=cache)
    for point, scales in last.scales.items():
        torch.testing.assert_close(scales, whole.scales[point][:, 6:])


@torch.no_grad()
def test_past_the_context() -> None:
    model = tiny_model()
    cache = Cache(SHAPE.context)
    model.run(model.embed(tiny_prompts(model, length=15), cache=cache), cache=cache)
    with pytest.raises(UserError, match="17 tokens does not fit the context of 16"):
        model.embed(tiny_prompts(model, length=2), cache=cache)
    with pytest.raises(AssertionError, match="room for 3 positions"):
        model.run(model.embed(tiny_prompts(model, length=4)), cache=Cache(3))

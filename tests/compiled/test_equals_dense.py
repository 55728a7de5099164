"""The compiled model is the dense one: logits, sites, residual points, gradients, caches."""

from itertools import pairwise

import pytest
import torch
from tiny import tiny_model, tiny_prompts
from torch import Tensor
from twins import CLOSE, LAYERS, NEAR, VARIANTS, assert_same_activations, random_masks, twins

from thinwire.compiled.compile import compile_sparse
from thinwire.compiled.modules import Sparse
from thinwire.engine.layout import is_feature_major
from thinwire.engine.simd.tiles import STREAMED_SIZE
from thinwire.model import Cache, SampleConfig, Transformer, generate
from thinwire.model.norms import ScaleRecorder, frozen
from thinwire.model.taps import Tap, chain, record
from thinwire.sites import all_sites, resid_points
from thinwire.tasks.batch import whole_sublayers

DENSITIES = (0.02, 0.12)
"""The sparser leaves rows and columns without a weight; CPUs break even at 1/8."""
SHAPES = [(3, 9), (1, 3), (1, 16), (3, 41), (1, 300)]
"""Sequences and tokens: fewer tokens than kernels are for, as many, more than a tile, and many tiles."""


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_logits_sites_and_residual_points(variant: str, fused_layers: list[tuple[int, ...]]) -> None:
    """Recorded site by site; and the logits again through fused layers, from tokens lying in either layout."""
    places = [*all_sites(twins()[0].config), *resid_points(twins()[0].config)]
    for density in DENSITIES:
        for mixed in (False, True):
            dense, compiled = twins(variant, density, mixed)
            assert sum(isinstance(module, Sparse) for module in compiled.modules()) == (16 if mixed else 20)
            for rows, length in SHAPES:
                tokens = tiny_prompts(dense, rows, length)
                expected, found = record(places), record(places)
                logits, one_by_one = dense(tokens, tap=expected), compiled(tokens, tap=found)
                assert_same_activations(found.values, expected.values)
                torch.testing.assert_close(one_by_one, logits, **CLOSE)
                assert all(is_feature_major(x) for x in found.values.values())
                assert not fused_layers
                torch.testing.assert_close(compiled(tokens), one_by_one, **NEAR)
                whole = compiled.embed(tokens).contiguous()
                torch.testing.assert_close(compiled.unembed(compiled.run(whole), tokens), one_by_one, **NEAR)
                many = rows * length >= 16
                assert fused_layers == ([(1,) if mixed else (0, 1, 2)] * 2 if many else [])
                fused_layers.clear()


def gradients(model: Transformer, start: int, resid: Tensor, tokens: Tensor, tap: Tap, leaves: list[Tensor]) -> list:
    """Those of a random combination of the logits, from a residual point on."""
    leaf = resid.detach().clone().requires_grad_()
    logits = model.unembed(model.run(leaf, start, tap=tap), tokens)
    towards = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    return list(torch.autograd.grad(logits, [leaf, *leaves], towards, allow_unused=True))


def assert_same_gradients(found: list[Tensor | None], expected: list[Tensor | None]) -> None:
    """Up to rounding, of the largest values too: a gradient is often the small rest of large sums."""
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(1 + theirs.abs().max()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_residual_points_and_sites(variant: str, fused_layers: list[tuple[int, ...]]) -> None:
    """With respect to a residual point and to a tensor added at each site, from every residual point on."""
    dense, compiled = twins(variant)
    tokens, points = tiny_prompts(dense, 2, 41), record(resid_points(dense.config))
    with torch.no_grad():
        dense(tokens, tap=points)
    shifts = {site: torch.zeros(site.width(dense.config), requires_grad=True) for site in all_sites(dense.config)}

    def shifted(site, x):
        return x + shifts[site]

    for point, resid in points.values.items():
        found, expected = (
            gradients(model, point.index, resid, tokens, shifted, list(shifts.values())) for model in (compiled, dense)
        )
        assert_same_gradients(found, expected)
        assert sum(gradient is None for gradient in found) == 8 * LAYERS - sum(
            site.sublayer >= point.index for site in shifts
        )
    assert not fused_layers


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_masks(variant: str, fused_layers: list[tuple[int, ...]]) -> None:
    """And of the stream. Trials of whole tiles, of parts of one, and of as few tokens as there may be."""
    dense, compiled = twins(variant)
    for rows, length, trials in [(2, 64, 1), (4, 41, 2), (3, 16, 3)]:
        tokens, tap = tiny_prompts(dense, rows, length), random_masks(dense, trials, gradient=True)
        found, expected = (
            gradients(model, 0, dense.embed(tokens), tokens, tap, list(tap.masks.values()))
            for model in (compiled, dense)
        )
        assert_same_gradients(found, expected)
        assert all(gradient is not None for gradient in found)
    assert not fused_layers


@pytest.mark.parametrize("name", ["values", "positions", "sink", "norm", "bias"])
def test_gradients_of_weights_of_one_layer(name: str, fused_layers: list[tuple[int, ...]]) -> None:
    """Layers before it are fused, layers after it are not: they would lose the gradient."""
    dense, compiled = twins("concatenated")
    names = {
        "values": ("blocks.1.mlp.w_in.weight", "blocks.1.mlp.w_in.values"),
        "positions": ("positions",) * 2,
        "sink": ("blocks.1.attn.sink",) * 2,
        "norm": ("blocks.1.attn.norm.weight",) * 2,
        "bias": ("blocks.1.attn.w_o.bias",) * 2,
    }
    tokens, found = tiny_prompts(dense, 2, 41), []
    for model, parameter in zip((dense, compiled), names[name], strict=True):
        leaf = model.get_parameter(parameter).requires_grad_()
        logits = model(tokens)
        towards = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
        found.append(torch.autograd.grad(logits, leaf, towards)[0])
    if name == "values":
        found[0] = found[0][dense.get_parameter(names[name][0]) != 0]
    assert found[1].any()
    assert_same_gradients(found[1:], found[:1])
    assert fused_layers == ([] if name == "positions" else [(0,)])


def test_gradients_may_be_computed_twice_and_on_any_number_of_threads(model: Transformer) -> None:
    tokens, tap, threads = tiny_prompts(model, 6, 200), random_masks(model, 3, gradient=True), torch.get_num_threads()
    start = model.embed(tokens).requires_grad_()
    leaves = [start, *tap.masks.values()]
    resid = model.run(start, tap=tap)
    loss = resid.square().sum()
    expected = torch.autograd.grad(loss, leaves, retain_graph=True)
    again = [torch.autograd.grad(loss, leaves)]
    try:
        for n in (2, 5):
            torch.set_num_threads(n)
            again.append(torch.autograd.grad(model.run(start, tap=tap).square().sum(), leaves))
    finally:
        torch.set_num_threads(threads)
    for found in again:
        assert all(ours.equal(theirs) for ours, theirs in zip(found, expected, strict=True))
    changed = model.run(start, tap=tap)
    changed += 1
    assert torch.autograd.grad(changed.sum(), start)[0].any()


@pytest.mark.parametrize("shape", [(4, 1024, 2), (3, 1401, 3)])
def test_activations_too_large_for_the_caches(shape: tuple[int, int, int], fused_layers: list[tuple[int, ...]]) -> None:
    """Trials that begin with cache lines, and trials that do not; fused, site by site, and with gradients."""
    dense = tiny_model(density=0.1, n_layers=1, d_model=256, d_head=32, context=1500).requires_grad_(False)
    compiled, (rows, length, trials) = compile_sparse(dense), shape
    tokens, fixed, learned = tiny_prompts(dense, rows, length), *(random_masks(dense, trials, g) for g in (False, True))
    resid = compiled.embed(tokens)
    assert resid.numel() >= STREAMED_SIZE
    with torch.no_grad():
        one_by_one = compiled.run(resid, tap=chain(fixed, record()))
        torch.testing.assert_close(compiled.run(resid, tap=fixed), one_by_one, **NEAR)
    assert fused_layers == [(0,)]
    found, expected = (
        gradients(model, 0, resid, tokens, learned, list(learned.masks.values())) for model in (compiled, dense)
    )
    assert_same_gradients(found, expected)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_last_positions_alone(variant: str) -> None:
    dense, compiled = twins(variant)
    places = [*all_sites(dense.config), *resid_points(dense.config)]
    tokens, last = tiny_prompts(dense, 3, 41), torch.tensor([40, 0, 14])
    whole, expected, found = whole_sublayers(dense), record(places), record(places)
    for model, seen in ((compiled, found), (dense, expected)):
        resid = model.run(model.embed(tokens, tap=seen), stop=whole, tap=seen)
        model.run_last(resid, last, tap=seen)
    assert_same_activations(found.values, expected.values)


@torch.no_grad()
def test_frozen_norms(fused_layers: list[tuple[int, ...]]) -> None:
    dense, compiled = twins("concatenated")
    tokens, other = tiny_prompts(dense), tiny_prompts(dense, seed=1)
    scales, own = ScaleRecorder(), ScaleRecorder()
    dense(other, norms=scales)
    compiled(other, norms=own)
    for point, scale in scales.scales.items():
        torch.testing.assert_close(own.scales[point], scale, **CLOSE)
    norms = frozen(scales.scales)
    torch.testing.assert_close(compiled(tokens, norms=norms), dense(tokens, norms=norms), **CLOSE)
    assert not fused_layers


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_text_that_grows(variant: str, fused_layers: list[tuple[int, ...]]) -> None:
    """A prompt, more of it, single tokens, and more; parts of few tokens go site by site."""
    dense, compiled = twins(variant)
    tokens = tiny_prompts(dense, 2, 60)
    cache, parts = Cache(60), []
    for begin, end in pairwise([0, 23, 24, 25, 30, 60]):
        part = tokens[:, begin:end]
        parts.append(compiled.unembed(compiled.run(compiled.embed(part, cache=cache), cache=cache), part))
    assert fused_layers == [(0, 1, 2)] * 2
    torch.testing.assert_close(torch.cat(parts, 1), dense(tokens), **CLOSE)
    config, prompts = SampleConfig(tokens=8, seed=3), tokens[:, :20]
    ours, expected = (torch.stack(list(generate(model, prompts, config))) for model in (compiled, dense))
    assert ours.equal(expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_weights_of_other_types(dtype: torch.dtype, fused_layers: list[tuple[int, ...]]) -> None:
    """The same rounded weights. The stream of half-precision embeddings is not fused; that of float32 ones is."""
    dense, compiled = twins("every channel")
    tokens = tiny_prompts(dense, 3, 41)
    compiled.blocks.to(dtype)
    torch.testing.assert_close(compiled(tokens), compiled(tokens, tap=record()), **NEAR)
    assert fused_layers == [(0, 1, 2)]
    logits, expected = compiled.to(dtype)(tokens), dense.to(dtype).float()(tokens)
    assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(logits.float(), expected, rtol=0.02, atol=0.02 * expected.abs().max().item())

"""The model on sparse kernels is the dense one: logits, sites, gradients, taps, hooks, caches.

Both round in float32, each in its own order. Where two channels of a token are nearer to each other than that, AbsTopK
could keep either; on these seeds nothing lies that near, and `same_sites` says where if something does.
"""

from itertools import pairwise

import pytest
import torch
from tiny import tiny_model, tiny_prompts
from torch import Tensor

from thinwire.compiled.compile import compile_sparse
from thinwire.compiled.modules import FeatureLinear, Sparse
from thinwire.engine.layout import is_feature_major
from thinwire.model import AbsTopK, Cache, SampleConfig, Transformer, generate
from thinwire.model.norms import ScaleRecorder, frozen
from thinwire.model.taps import Tap, ablate, chain, identity, patch, record
from thinwire.sites import Node, Site, all_sites

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
VARIANTS: dict[str, dict[str, object]] = {
    "plain": {},
    "no biases": {"biases": False},
    "added": {"positions": "added", "sink": True},
    "concatenated": {"positions": "concatenated", "sink": True},
    "active residual": {"active_residual": True, "active_fraction": 0.5},
    "relu": {"activation": "relu", "bigram": False},
    "every channel": {"active_fraction": 1.0, "biases": False},
    "some sites": {"active_sites": ("attn.q", "attn.act_in", "mlp.post_act"), "biases": False},
    "long": {"context": 140, "sink": True},
}
DENSITIES = (0.02, 0.12)
"""The sparser leaves rows and columns without a weight; CPUs break even at 1/8."""
ROWS_AND_LENGTHS = [(3, 9), (1, 3), (1, 16), (5, 13)]
"""Fewer tokens than a site's operator is for, as many, and more than a tile."""


def pair(variant: str = "plain", density: float = 0.1, mixed: bool = False) -> tuple[Transformer, Transformer]:
    """A model and its compiled twin; in a mixed one some matrices, and the embedding, are dense."""
    dense = tiny_model(density=density, **VARIANTS[variant])
    dense.precision = "fp32"
    if mixed:
        with torch.no_grad():
            for name in ("embedding", "blocks.0.attn.w_q", "blocks.1.mlp.w_in", "blocks.1.attn.w_o"):
                weight = dense.get_submodule(name).get_parameter("weight")
                weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    return dense, compile_sparse(dense)


def same_sites(found: dict[Site, Tensor], expected: dict[Site, Tensor]) -> None:
    assert list(found) == list(expected)
    for site, values in found.items():
        assert values.shape == expected[site].shape
        other = (values != 0) != (expected[site] != 0)
        assert not other.any(), f"{site} keeps other channels at {other.nonzero().tolist()}: a near tie, or a mistake"
        torch.testing.assert_close(values, expected[site], **CLOSE)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_logits_and_sites_are_those_of_the_dense_model(variant: str, density: float, mixed: bool) -> None:
    dense, compiled = pair(variant, density, mixed)
    assert sum(isinstance(module, Sparse) for module in compiled.modules()) == (10 if mixed else 14)
    for rows, length in [(2, 131)] if variant == "long" else ROWS_AND_LENGTHS:
        tokens = tiny_prompts(dense, rows, length)
        expected, found = record(), record()
        logits = dense(tokens, tap=expected)
        torch.testing.assert_close(compiled(tokens, tap=found), logits, **CLOSE)
        same_sites(found.values, expected.values)
        assert list(found.values) == list(all_sites(dense.config))


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_those_of_the_dense_model(variant: str) -> None:
    """With respect to a residual point and to what a tap adds at each site, from every residual point on."""
    dense, compiled = pair(variant)
    tokens = tiny_prompts(dense, 2, 131 if variant == "long" else 9)
    with torch.no_grad():
        points = [dense.embed(tokens)]
        for i in range(len(dense.sublayers)):
            points.append(dense.run(points[-1], i, i + 1))
        logits = dense(tokens)
    towards = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    for start, point in enumerate(points):
        results = []
        for model in (dense, compiled):
            resid = point.clone().requires_grad_()
            shifts = {
                site: torch.zeros(site.width(model.config), requires_grad=True) for site in all_sites(dense.config)
            }
            y = model.unembed(model.run(resid, start, tap=lambda site, x: x + shifts[site]), tokens)  # noqa: B023
            torch.testing.assert_close(y, logits, **CLOSE)
            results.append(torch.autograd.grad(y, [resid, *shifts.values()], towards, allow_unused=True))
        for ours, expected in zip(results[1], results[0], strict=True):
            assert (ours is None) == (expected is None)
            if ours is not None:
                torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_runs_from_any_residual_point_are_the_full_pass() -> None:
    _, compiled = pair("concatenated")
    tokens = tiny_prompts(compiled)
    points = [compiled.embed(tokens)]
    for i in range(len(compiled.sublayers)):
        points.append(compiled.run(points[-1], i, i + 1))
    logits = compiled(tokens)
    for start, point in enumerate(points):
        assert is_feature_major(point)
        torch.testing.assert_close(compiled.unembed(compiled.run(point, start), tokens), logits, rtol=1e-5, atol=1e-6)
        by_token = point.contiguous()  # as from outside, a bridge say
        torch.testing.assert_close(compiled.unembed(compiled.run(by_token, start), tokens), logits, **CLOSE)


def taps_of(model: Transformer) -> dict[str, Tap]:
    seen = record()
    model(tiny_prompts(model, rows=8, seed=5), tap=seen)
    means = {site: x.mean((0, 1)) for site, x in seen.values.items()}
    keep = {site: torch.arange(len(mean)) % 3 > 0 for site, mean in means.items()}
    nodes = {Node(site, 1): 0.7 for site in means} | {Node(Site.of(0, "attn.v"), 2): torch.arange(9.0)}
    return {"none": identity, "ablate": ablate(keep, means), "patch": patch(nodes)}


@pytest.mark.parametrize("name", ["none", "ablate", "patch"])
@pytest.mark.parametrize("variant", ["plain", "added", "concatenated", "active residual"])
@torch.no_grad()
def test_taps_see_and_change_what_they_do_in_the_dense_model(variant: str, name: str) -> None:
    dense, compiled = pair(variant)
    tokens, tap = tiny_prompts(dense), taps_of(dense)[name]
    expected, found, before = record(), record(), record()
    logits = dense(tokens, tap=chain(tap, expected))
    torch.testing.assert_close(compiled(tokens, tap=chain(before, tap, found)), logits, **CLOSE)
    same_sites(found.values, expected.values)
    assert name == "none" or not torch.allclose(logits, dense(tokens), atol=1e-2)
    assert all(is_feature_major(x) for x in before.values.values())
    last = torch.tensor([8, 0, 4])
    resid = compiled.run(compiled.embed(tokens), stop=2, tap=tap)
    if name == "ablate":
        one = compiled.unembed(compiled.run_last(resid, last, tap), tokens[torch.arange(3), last][:, None])
        torch.testing.assert_close(one[:, 0], logits[torch.arange(3), last], **CLOSE)


@torch.no_grad()
def test_last_positions_alone() -> None:
    for variant in VARIANTS:
        dense, compiled = pair(variant)
        tokens, last = tiny_prompts(dense, 3, 131 if variant == "long" else 9), torch.tensor([8, 0, 4])
        whole, expected, found = len(dense.sublayers) - 2, record(), record()
        ours, theirs = (
            model.run_last(model.run(model.embed(tokens), stop=whole), last, seen)
            for model, seen in ((compiled, found), (dense, expected))
        )
        torch.testing.assert_close(ours, theirs, **CLOSE)
        same_sites(found.values, expected.values)


@torch.no_grad()
def test_hooks_on_the_modules_of_sites_fire_with_what_taps_see() -> None:
    _, compiled = pair()
    hooked: dict[str, Tensor] = {}
    for name, module in compiled.named_modules():
        if isinstance(module, AbsTopK) and name != "resid":
            module.register_forward_hook(lambda _, args, out, name=name: hooked.__setitem__(name, out))
    seen = record()
    for rows, length in ((3, 9), (1, 3)):
        compiled(tiny_prompts(compiled, rows, length), tap=seen)
        assert {f"blocks.{site}" for site in seen.values} == set(hooked)
        assert all(hooked[f"blocks.{site}"] is x for site, x in seen.values.items())
    site = compiled.get_submodule("blocks.0.mlp.post_act")
    site.register_forward_hook(lambda module, args, out: 0 * out)
    compiled(tiny_prompts(compiled), tap=seen)
    assert not seen.values[Site.of(0, "mlp.post_act")].any()


@torch.no_grad()
def test_frozen_norms() -> None:
    dense, compiled = pair("concatenated")
    tokens, other = tiny_prompts(dense), tiny_prompts(dense, seed=1)
    scales, own = ScaleRecorder(), ScaleRecorder()
    dense(other, norms=scales)
    compiled(other, norms=own)
    for point, scale in scales.scales.items():
        torch.testing.assert_close(own.scales[point], scale, **CLOSE)
    norms = frozen(scales.scales)
    torch.testing.assert_close(compiled(tokens, norms=norms), dense(tokens, norms=norms), **CLOSE)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_text_that_grows(variant: str) -> None:
    dense, compiled = pair(variant)
    tokens = tiny_prompts(dense, 2, 135 if variant == "long" else 16)
    cache, parts = Cache(tokens.shape[1]), []
    for begin, end in pairwise([0, 5, 6, 7, 10, tokens.shape[1] - 1, tokens.shape[1]]):
        part = tokens[:, begin:end]
        parts.append(compiled.unembed(compiled.run(compiled.embed(part, cache=cache), cache=cache), part))
    torch.testing.assert_close(torch.cat(parts, 1), dense(tokens), **CLOSE)
    config, prompts = SampleConfig(tokens=8, seed=3), tokens[:, :4]
    ours, expected = (torch.stack(list(generate(model, prompts, config))) for model in (compiled, dense))
    assert ours.equal(expected)


def test_compiling_changes_nothing_in_what_is_given() -> None:
    dense = tiny_model(density=0.1, sink=True)
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    compiled = compile_sparse(dense)
    assert compiled is not dense
    assert compile_sparse(compiled) is compiled
    half = pair(mixed=True)[1]
    assert compile_sparse(half, below=2) is half
    assert compiled.config == dense.config
    assert not compiled.training
    assert not any(p.requires_grad for p in compiled.parameters())
    assert all(p.requires_grad and p.grad is None for p in dense.parameters())
    assert dense.training
    assert not any(isinstance(module, Sparse | FeatureLinear) for module in dense.modules())
    dense(tiny_prompts(dense)).square().mean().backward()
    assert all(p.grad is not None for p in dense.parameters())
    assert all(before[name].equal(value) for name, value in dense.state_dict().items())
    for name in ("bigram.weight", "blocks.1.attn.sink", "norm.weight", "unembedding.bias"):
        assert compiled.get_parameter(name).data_ptr() == dense.get_parameter(name).data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_computed_with_in_float32(dtype: torch.dtype) -> None:
    """The same rounded weights; from a residual stream that is kept in half precision for a moment."""
    dense, _ = pair("every channel")
    tokens = tiny_prompts(dense, 3, 16)
    with torch.no_grad():
        expected = dense.to(dtype).float()(tokens)
        logits = pair("every channel")[1].to(dtype)(tokens)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=0.02, atol=0.02 * expected.abs().max().item())


def test_dense_models_are_returned_as_they_are() -> None:
    for dense in (tiny_model(), tiny_model(density=0.13)):
        assert compile_sparse(dense) is dense
    assert compile_sparse(tiny_model(), below=2) is not dense
    empty = tiny_model(density=0.1)
    with torch.no_grad():
        for name, weight in empty.blocks.named_parameters():
            weight.mul_("w_" not in name or name.endswith("bias"))
        tokens = tiny_prompts(empty)
        torch.testing.assert_close(compile_sparse(empty)(tokens), empty(tokens), **CLOSE)


@pytest.mark.parametrize("variant", ["plain", "concatenated"])
def test_whole_model_compiles_as_one_graph(variant: str) -> None:
    _, compiled = pair(variant)
    tokens, resid = tiny_prompts(compiled), torch.randn(3, 9, 16, generator=torch.Generator().manual_seed(0))
    resid.requires_grad_()

    def work(resid: Tensor) -> Tensor:
        return compiled.unembed(compiled.run(resid), tokens).square().sum()

    torch._dynamo.reset()
    expected, ours = work(resid), torch.compile(work, backend="aot_eager", fullgraph=True)(resid)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(torch.autograd.grad(ours, resid), torch.autograd.grad(expected, resid), **CLOSE)

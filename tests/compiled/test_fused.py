"""Which layers of a compiled model are fused, and that fused layers compute what the sites compute one by one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import tiny_model, tiny_prompts
from twins import LAYERS, NEAR, VARIANTS, random_masks, twins

from thinwire.compiled.compile import compile_sparse
from thinwire.compiled.modules import SparseLinear
from thinwire.engine.layers import operator as layers
from thinwire.model import AbsTopK, Cache, Transformer
from thinwire.model.norms import frozen
from thinwire.model.taps import ablate_masks, chain, record
from thinwire.sites import Site

Fused = list[tuple[int, ...]]
ALL = tuple(range(LAYERS))


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_ablations(variant: str, fused_layers: Fused) -> None:
    """Trials of whole tiles, of parts of one, and of as few tokens as there may be."""
    _, compiled = twins(variant)
    for rows, length, trials in [(2, 64, 1), (4, 41, 2), (6, 70, 3), (3, 16, 3)]:
        tokens, tap = tiny_prompts(compiled, rows, length), random_masks(compiled, trials)
        one_by_one = compiled(tokens, tap=chain(tap, record()))
        assert not fused_layers
        torch.testing.assert_close(compiled(tokens, tap=tap), one_by_one, **NEAR)
        assert not torch.allclose(one_by_one, compiled(tokens), atol=1e-2)
        assert fused_layers == [ALL] * 2
        fused_layers.clear()
        free = ablate_masks({site: torch.ones_like(mask) for site, mask in tap.masks.items()}, tap.constants)
        assert compiled(tokens, tap=free).equal(compiled(tokens))
        fused_layers.clear()


@torch.no_grad()
def test_parts_of_the_model(model: Transformer, fused_layers: Fused) -> None:
    """Half a layer goes site by site; a stream may lie token by token; the input is not changed."""
    resid = model.embed(tiny_prompts(model, 2, 70))
    before = resid.clone()
    parts = {(0, 2): [(0,)], (2, 6): [(1, 2)], (0, 3): [(0,)], (1, 6): [(1, 2)], (1, 3): [], (2, 2): []}
    for (start, stop), expected in parts.items():
        fused_layers.clear()
        ours = model.run(resid, start, stop)
        assert fused_layers == expected
        torch.testing.assert_close(ours, model.run(resid, start, stop, tap=record()), **NEAR)
    assert model.run(resid.contiguous()).equal(model.run(resid))
    assert resid.equal(before)


@torch.no_grad()
def test_position_channels_are_copied_for_all_layers_or_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _, compiled = twins("concatenated")
    tokens = tiny_prompts(compiled, 3, 41)
    logits = compiled(tokens)
    monkeypatch.setattr(layers, "MAX_POSITIONS", 0)
    assert compiled(tokens).equal(logits)


def hooked(register: str, name: str) -> Callable[[Transformer], Transformer]:
    def change(model: Transformer) -> Transformer:
        getattr(model.get_submodule(name), register)(lambda *args: None)
        return model

    return change


class Doubled(AbsTopK):
    """Twice of what AbsTopK keeps."""

    def forward(self, *args: Any) -> torch.Tensor:  # pyright: ignore
        return 2 * super().forward(*args)


def with_other_site(model: Transformer) -> Transformer:
    mlp: Any = model.sublayers[3]
    mlp.post_act = Doubled(mlp.post_act.k, mlp.post_act.width)
    return model


def with_other_forward(model: Transformer) -> Transformer:
    mlp: Any = model.sublayers[3]
    mlp.forward = lambda resid, *others: 0.5 * resid
    return model


class OtherMap(SparseLinear):
    """A map of another type, whose forward pass or gradient may be another."""


def with_other_map(model: Transformer) -> Transformer:
    w_k = model.get_submodule("blocks.1.attn.w_k")
    assert isinstance(w_k, SparseLinear)
    model.set_submodule("blocks.1.attn.w_k", OtherMap(w_k.pattern, w_k.values, w_k.bias))
    return model


def with_dense_map(model: Transformer) -> Transformer:
    dense = twins()[0]
    with torch.no_grad():
        dense.get_submodule("blocks.1.mlp.w_out").weight.normal_()  # pyright: ignore
    return compile_sparse(dense)


CHANGES: dict[str, tuple[Callable[[Transformer], Transformer], Fused]] = {
    "a hook on a site": (hooked("register_forward_hook", "blocks.1.mlp.post_act"), [(0,), (2,)]),
    "a hook before a site": (hooked("register_forward_pre_hook", "blocks.1.attn.q"), [(0,), (2,)]),
    "a hook on a map": (hooked("register_forward_hook", "blocks.1.attn.w_o"), [(0,), (2,)]),
    "a hook on a sublayer": (hooked("register_forward_hook", "blocks.0.mlp"), [(1, 2)]),
    "a hook before a sublayer": (hooked("register_forward_pre_hook", "blocks.2.attn"), [(0, 1)]),
    "a hook on residual points": (hooked("register_forward_hook", "resid"), []),
    "another site": (with_other_site, [(0,), (2,)]),
    "another forward pass": (with_other_forward, [(0,), (2,)]),
    "a dense map": (with_dense_map, [(0,), (2,)]),
    "a map of another type": (with_other_map, [(0,), (2,)]),
}


@pytest.mark.parametrize("name", CHANGES)
@torch.no_grad()
def test_layers_with_other_modules_or_hooks_go_site_by_site(name: str, model: Transformer, fused_layers: Fused) -> None:
    change, expected = CHANGES[name]
    tokens = tiny_prompts(model, 2, 70)
    changed = change(model)
    logits = changed(tokens)
    assert fused_layers == expected
    torch.testing.assert_close(logits, changed(tokens, tap=record()), **NEAR)
    assert logits.allclose(twins()[1](tokens), atol=1e-3) == ("hook" in name or name == "a map of another type")


@torch.no_grad()
def test_passes_that_go_site_by_site(model: Transformer, fused_layers: Fused) -> None:
    """Under hooks on all modules, other norms and autocast, with recomputed activations, and for few tokens."""
    tokens = tiny_prompts(model, 2, 70)
    logits = model(tokens)
    assert fused_layers == [ALL]
    hook = torch.nn.modules.module.register_module_forward_hook(lambda *args: None)
    torch.testing.assert_close(model(tokens), logits, **NEAR)
    hook.remove()
    assert not model(tokens, norms=frozen(dict.fromkeys(range(2 * LAYERS + 1), torch.ones(1)))).equal(logits)
    with torch.autocast("cpu", torch.bfloat16):
        model(tokens)
    model(tokens[:1, :15])
    with torch.enable_grad():
        model(tokens, recompute=True)
        model.run(model.embed(tokens).requires_grad_())
    assert fused_layers == [ALL]


def test_parameters_that_require_gradients(model: Transformer, fused_layers: Fused) -> None:
    """Do not prevent fusion where no graph is recorded, on any number of threads."""
    tokens, threads = tiny_prompts(model, 3, 200), torch.get_num_threads()
    model.requires_grad_(True)
    with torch.no_grad():
        logits = model(tokens)
        try:
            for n in (1, 2, 5):
                torch.set_num_threads(n)
                assert model(tokens).equal(logits)
        finally:
            torch.set_num_threads(threads)
    assert fused_layers == [ALL] * 4
    assert model(tokens).requires_grad
    assert fused_layers == [ALL] * 4


@torch.no_grad()
def test_a_stream_of_another_width_is_refused(model: Transformer) -> None:
    """Kernels would read beyond its end."""
    for width in (31, 33):
        resid = torch.zeros(width, 2, 70).permute(1, 2, 0)
        for run in (model.run, model.norm, model.sublayers[0].w_q):  # pyright: ignore
            with pytest.raises((ValueError, RuntimeError), match=r"3[13]"):
                run(resid)
        with pytest.raises(ValueError, match=r"takes 32 channels, not 3[13]\."):
            model.sublayers[0].get_submodule("q")(resid, model.sublayers[0].w_q)


@torch.no_grad()
def test_every_norm_has_its_own_epsilon(model: Transformer, fused_layers: Fused) -> None:
    tokens = tiny_prompts(model, 2, 70)
    before = model(tokens)
    model.get_submodule("blocks.1.mlp.norm").eps = 0.5  # pyright: ignore
    model.get_submodule("blocks.2.attn.norm").eps = 0.1  # pyright: ignore
    after = model(tokens)
    torch.testing.assert_close(after, model(tokens, tap=record()), **NEAR)
    assert fused_layers == [ALL] * 2
    assert not after.allclose(before, atol=1e-3)


@torch.no_grad()
def test_values_that_are_not_finite_stay_in_their_sequence(model: Transformer, fused_layers: Fused) -> None:
    tokens, tap = tiny_prompts(model, 3, 70), random_masks(model, 3)
    resid = model.embed(tokens)
    spoilt = resid.clone()
    spoilt[1, 40, 3], spoilt[2, 5, 7] = torch.nan, torch.inf
    for each in (random_masks(model, 1), tap):
        clean, found = model.run(resid, tap=each), model.run(spoilt, tap=each)
        assert found[0].equal(clean[0])
        assert found[1, 40].isnan().any()
    assert fused_layers == [ALL] * 4
    one_by_one = model.run(spoilt, tap=record())
    torch.testing.assert_close(model.run(spoilt), one_by_one, **NEAR, equal_nan=True)


@torch.no_grad()
def test_ties_and_zeros(fused_layers: Fused) -> None:
    """Values that are often the same, and tokens with fewer nonzeros than AbsTopK keeps."""
    dense = tiny_model(density=0.1, biases=False, n_layers=LAYERS, d_model=32, d_head=8, context=64)
    for weight in dense.requires_grad_(False).parameters():
        weight.data = weight.data.sign()
    compiled, generator = compile_sparse(dense), torch.Generator().manual_seed(0)
    resid = torch.randint(-1, 2, (4, 41, 32), generator=generator).float()
    resid *= torch.rand(4, 41, 1, generator=generator) < 0.8
    tap = random_masks(compiled, 2)
    for each in (tap, chain()):
        apart = compiled.run(resid, tap=each) - compiled.run(resid, tap=chain(each, record()))
        assert (apart.abs().amax(-1) > 1e-5).float().mean() < 0.02, "rounding decides a few ties"
    assert fused_layers == [ALL] * 2


@torch.no_grad()
def test_ablations_with_a_cache(model: Transformer, fused_layers: Fused) -> None:
    tokens, tap, cache, parts = tiny_prompts(model, 4, 60), random_masks(model, 2), Cache(60), []
    for part in tokens.split([23, 1, 36], 1):
        parts.append(model.run(model.embed(part, cache=cache), tap=tap, cache=cache))
    assert fused_layers == [ALL] * 2
    torch.testing.assert_close(torch.cat(parts, 1), model.run(model.embed(tokens), tap=tap), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gradient", [False, True])
def test_masks_that_do_not_fit(gradient: bool, model: Transformer) -> None:
    """Fused and site by site alike. A trial never ends within a sequence, though 4 · 42 tokens make three parts."""
    tap, resid = random_masks(model, 3, gradient), model.embed(tiny_prompts(model, 4, 42))
    for each, other in ((tap, model), (chain(tap, record()), model), (tap, twins()[0])):
        with pytest.raises(ValueError, match=r"^4 sequences are not a multiple of the 3 trials of an ablation\.$"):
            other.run(resid, tap=each)
    site = Site.of(1, "mlp.post_act")
    narrow = ablate_masks(tap.masks, {**tap.constants, site: tap.constants[site][:5]})
    with pytest.raises(ValueError, match=r"constants \[5\] and a mask \[3, 64\] does not fit 64 nodes of 246 tokens"):
        model.run(model.embed(tiny_prompts(model, 6, 41)), tap=narrow)
    learned = ablate_masks(tap.masks, {**tap.constants, site: tap.constants[site].clone().requires_grad_()})
    with pytest.raises(ValueError, match="constants of an ablation have no gradient; detach them"):
        model.run(model.embed(tiny_prompts(model, 6, 41)), tap=learned)
    with pytest.raises(ValueError, match=r"There are no values for 1\.mlp\.post_act; give"):
        ablate_masks(tap.masks, {other: each for other, each in tap.constants.items() if other != site})

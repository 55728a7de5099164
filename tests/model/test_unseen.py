"""Layers that nobody looks into pass in few operators; the logits are those of the sites one by one."""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.model.layers import CONFIGS, LAYERS, hold, made
from thinwire.compiled.compile import compile_sparse
from thinwire.engine.layers import all_layers
from thinwire.engine.layers import operator as layers
from thinwire.engine.layout import is_feature_major
from thinwire.model import AbsTopK, Cache, Transformer
from thinwire.model.norms import frozen
from thinwire.model.taps import record
from thinwire.sites import Site
from thinwire.train.whole_gradient import with_whole_gradients


@pytest.mark.parametrize("shape", [(1, 16), (3, 41), (2, 64), (1, 300)])
@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_logits_are_those_of_the_sites(kind: str, shape: tuple[int, int], calls: list[Any]) -> None:
    dense = made(**CONFIGS[kind])
    model, tokens = compile_sparse(dense, below=1.0), torch.randint(20, shape)
    logits = model(tokens)
    assert is_feature_major(logits)
    assert len(calls) == 1
    one_by_one = model(tokens, tap=record())
    assert len(calls) == 1
    torch.testing.assert_close(logits, one_by_one, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits, dense(tokens), rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_some_of_the_layers(model: Transformer, calls: list[Any]) -> None:
    """Whole layers alone; half a layer goes site by site."""
    resid = model.embed(torch.randint(20, (2, 70)))
    for start, stop, n_calls in ((0, 2, 1), (2, 6, 1), (0, 3, 0), (1, 3, 0), (2, 2, 0)):
        calls.clear()
        ours = model.run(resid, start, stop)
        assert len(calls) == n_calls
        torch.testing.assert_close(ours, model.run(resid, start, stop, tap=record()), rtol=1e-5, atol=1e-6)
    calls.clear()
    kept = resid.clone()
    result = model.run(resid)
    assert model.run(resid.contiguous()).equal(result)  # token by token, as dense embeddings are
    assert len(calls) == 2
    assert resid.equal(kept)


@torch.no_grad()
def test_position_channels_may_be_copied_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all copies at once would take much memory."""
    model, tokens = compile_sparse(made(**CONFIGS["beside"]), below=1.0), torch.randint(20, (3, 41))
    logits = model(tokens)
    monkeypatch.setattr(all_layers, "MOST", 0)
    assert model(tokens).equal(logits)


def test_heads_go_with_the_end_of_their_attention(model: Transformer, calls: list[Any]) -> None:
    with torch.no_grad():
        model.run(model.embed(torch.randint(20, (2, 20))), cache=Cache(20))
    stream, heads, k_stream, end, begin, held = calls[1]
    for one, other in ((None, end), (heads, None)):
        with pytest.raises(ValueError, match="go together"):
            layers.between_attentions(stream, one, k_stream, other, begin, held)


@torch.no_grad()
def test_with_a_cache(model: Transformer, calls: list[Any]) -> None:
    """A prompt, and more of it, and then tokens one by one, which are too few for it."""
    tokens, cache, logits = torch.randint(20, (2, 60)), Cache(60), []
    for part in tokens.split([23, 35, 1, 1], 1):
        logits.append(model.unembed(model.run(model.embed(part, cache=cache), cache=cache), part))
    assert len(calls) == 2 * (LAYERS + 1)
    torch.testing.assert_close(torch.cat(logits, 1), model(tokens), rtol=1e-4, atol=1e-5)


def test_goes_site_by_site_where_somebody_looks(model: Transformer, calls: list[Any]) -> None:
    """Taps, hooks on a site or a sublayer, and other norms."""
    tokens, seen, hooked = torch.randint(20, (2, 70)), record(), []
    with torch.no_grad():
        logits = model(tokens)
        assert len(calls) == 1
        calls.clear()
        assert model(tokens, tap=seen).equal(logits)
        assert len(seen.values) == LAYERS * 8
        for name in ("blocks.0.mlp.post_act", "blocks.2.attn.q", "blocks.1.mlp", "blocks.1.attn", "resid"):
            before = len(hooked)
            for register in ("register_forward_hook", "register_forward_pre_hook"):
                hook = getattr(model.get_submodule(name), register)(lambda *args: hooked.append(args[0]))
                assert model(tokens).equal(logits)
                hook.remove()
            assert len(hooked) >= before + 2
        hook = torch.nn.modules.module.register_module_forward_hook(lambda *args: None)
        torch.testing.assert_close(model(tokens), logits, rtol=1e-5, atol=1e-6)
        hook.remove()
        assert not model(tokens, norms=frozen(dict.fromkeys(range(2 * LAYERS + 1), torch.ones(1)))).equal(logits)
        assert not calls
    assert seen.values[Site.of(0, "mlp.post_act")].count_nonzero(-1).max() <= 32


class Doubled(AbsTopK):
    """Twice of what is kept."""

    def forward(self, *args: Any) -> torch.Tensor:  # pyright: ignore
        return 2 * super().forward(*args)


def altered(model: Transformer, kind: str) -> Transformer:
    """The model with something in it that the operator does not know."""
    if kind == "other maps":
        return with_whole_gradients(made(), model, "fp32")
    mlp: Any = model.sublayers[1]
    if kind == "other site":
        mlp.post_act = Doubled(mlp.post_act.k, mlp.post_act.width)
    elif kind == "other forward":
        mlp.forward = lambda resid, *others: 0.5 * resid
    return model


@pytest.mark.parametrize("kind", ["other maps", "other site", "other forward"])
@torch.no_grad()
def test_goes_site_by_site_where_modules_are_others(model: Transformer, calls: list[Any], kind: str) -> None:
    tokens, before = torch.randint(20, (2, 70)), model(torch.arange(20)[None])
    assert calls
    calls.clear()
    other = altered(model, kind)
    assert other(tokens).equal(other(tokens, tap=record()))
    assert not calls
    assert kind == "other maps" or not other(torch.arange(20)[None]).equal(before)


@torch.no_grad()
def test_a_stream_of_another_width_is_refused(model: Transformer) -> None:
    """Never read beyond its end, whatever reads it first."""
    for width in (31, 33):
        resid = torch.zeros(width, 2, 70).permute(1, 2, 0)
        for run in (model.run, model.norm, model.sublayers[0].w_q):  # pyright: ignore
            with pytest.raises((ValueError, RuntimeError), match=r"3[13]"):
                run(resid)
        with pytest.raises(ValueError, match=r"takes 32 channels, not 3[13]\."):
            model.sublayers[0].get_submodule("q")(resid, model.sublayers[0].w_q)


@torch.no_grad()
def test_every_norm_has_its_own_epsilon(model: Transformer, calls: list[Any]) -> None:
    tokens = torch.randint(20, (2, 70))
    model.get_submodule("blocks.1.mlp.norm").eps = 0.5  # pyright: ignore
    model.get_submodule("blocks.2.attn.norm").eps = 0.1  # pyright: ignore
    torch.testing.assert_close(model(tokens), model(tokens, tap=record()), rtol=1e-5, atol=1e-6)
    assert calls


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@torch.no_grad()
def test_weights_of_other_types(dtype: torch.dtype, calls: list[Any]) -> None:
    """Embeddings stay float32, as the stream is then."""
    model, tokens = compile_sparse(made(bigram=False), below=1.0), torch.randint(20, (2, 70))
    model.blocks.to(dtype)
    torch.testing.assert_close(model(tokens), model(tokens, tap=record()), rtol=1e-5, atol=1e-6)
    assert calls


@torch.no_grad()
def test_what_is_not_a_number_stays_with_its_sequence(model: Transformer, calls: list[Any]) -> None:
    tokens = torch.randint(20, (3, 70))
    logits = model(tokens)
    resid = model.embed(tokens)
    resid[1, 40, 3], resid[2, 5, 7] = torch.nan, torch.inf
    spoilt = model.unembed(model.run(resid), tokens)
    assert len(calls) == 2
    assert spoilt[0].equal(logits[0])
    assert spoilt[1, 40].isnan().any()
    one_by_one = model.unembed(model.run(resid, tap=record()), tokens)
    torch.testing.assert_close(spoilt, one_by_one, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_parameters_that_could_learn_and_threads(model: Transformer, calls: list[Any]) -> None:
    tokens, threads = torch.randint(20, (3, 200)), torch.get_num_threads()
    with torch.no_grad():
        logits = model(tokens)
        model.requires_grad_(True)
        try:
            for n in (1, 2, 5):
                torch.set_num_threads(n)
                assert model(tokens).equal(logits)
        finally:
            torch.set_num_threads(threads)
        assert len(calls) == 4
    assert model(tokens).requires_grad
    assert len(calls) == 4


@torch.no_grad()
def test_tensors_without_numbers(model: Transformer) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        logits = model(torch.zeros(2, 70, dtype=torch.int64))
    assert logits.shape == (2, 70, 20)
    assert is_feature_major(logits)


@torch.no_grad()
def test_dense_maps_go_site_by_site(calls: list[Any]) -> None:
    dense = made()
    partly = compile_sparse(dense, below=0.097)
    tokens = torch.randint(20, (2, 70))
    torch.testing.assert_close(partly(tokens), dense(tokens), rtol=1e-3, atol=1e-5)
    assert any(isinstance(module, torch.nn.Linear) for module in partly.sublayers[0].modules())
    assert not calls


def test_contract_of_torch(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    tokens, tap = torch.randint(20, (2, 20)), hold(model, 2)
    run, run_all, resid = layers._between_attentions, all_layers._run_layers, model.embed(tokens).requires_grad_()

    def noted(operator: Any) -> Any:
        def called(*args: Any) -> Any:
            given.append((operator, args))
            return operator(*args)

        return called

    monkeypatch.setattr(layers, "_between_attentions", noted(run))
    monkeypatch.setattr(all_layers, "_run_layers", noted(run_all))
    with torch.no_grad():
        model.run(resid, cache=Cache(20))
        model.run(resid)
        model.run(resid, tap=tap)
    with_gradients = model.run(resid), model.run(resid, tap=tap)
    assert all(x.requires_grad for x in with_gradients)
    assert [operator for operator, _ in given].count(run_all) == 2
    assert len(given) == 3 * (LAYERS + 1) + 2
    for operator, args in given:
        learns = operator is run and args[-1]
        leaves = [x.detach().requires_grad_(x.requires_grad and learns) for x in args[: 3 if operator is run else 1]]
        torch.library.opcheck(operator.op, (*leaves, *args[len(leaves) :]))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_as_one_graph(model: Transformer, backend: str) -> None:
    tokens = torch.randint(20, (2, 70))
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(tokens), model(tokens))
    resid = model.embed(tokens)

    def gradient(run: Any) -> torch.Tensor:
        leaf = resid.detach().requires_grad_()
        return torch.autograd.grad(run(leaf).square().sum(), leaf)[0]

    torch.testing.assert_close(gradient(torch.compile(model.run, backend=backend, fullgraph=True)), gradient(model.run))

"""Layers that nobody looks into pass in few operators; the logits are those of the sites one by one."""

from typing import Any

import pytest
import torch

from thinwire.engine import layers
from thinwire.engine.layout import is_feature_major
from thinwire.model import Cache, ModelConfig, Transformer, unseen
from thinwire.model.norms import frozen
from thinwire.model.sparse import compile_sparse
from thinwire.model.taps import record
from thinwire.sites import Site

LAYERS = 3
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sinks": {"sink": True},
    "added": {"positions": "added"},
    "beside": {"positions": "concatenated", "d_pos": 5},
    "relu": {"activation": "relu", "biases": False},
    "sparse stream": {"active_residual": True},
    "whole": {"active_sites": ()},
    "no bigram": {"bigram": False},
}


def made(**fields: Any) -> Transformer:
    """A model whose weights, without those of norms, are mostly zero."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"n_layers": LAYERS, "d_model": 32, "d_head": 8, "context": 300, "vocab_size": 20}
    dense = Transformer(ModelConfig(**sizes | fields))
    for name, matrix in dense.named_parameters():
        if name.endswith(("bias", "sink")) or "norm" in name:
            matrix.data += torch.randn_like(matrix) / 4
        elif "bigram" not in name and "positions" not in name:
            matrix.data *= torch.rand_like(matrix) < 0.1
    return dense.eval().requires_grad_(False)


@pytest.fixture
def model() -> Transformer:
    return compile_sparse(made(), below=1.0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the operator was given, call by call."""
    seen: list[Any] = []

    def counted(*args: Any) -> Any:
        seen.append(args)
        return layers.between_attentions(*args)

    monkeypatch.setattr(unseen, "between_attentions", counted)
    return seen


@pytest.mark.parametrize("shape", [(1, 16), (3, 41), (2, 64), (1, 300)])
@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_logits_are_those_of_the_sites(kind: str, shape: tuple[int, int], calls: list[Any]) -> None:
    dense = made(**CONFIGS[kind])
    model, tokens = compile_sparse(dense, below=1.0), torch.randint(20, shape)
    logits = model(tokens)
    assert is_feature_major(logits)
    assert len(calls) == LAYERS + 1
    one_by_one = model(tokens, tap=record())
    assert len(calls) == LAYERS + 1
    torch.testing.assert_close(logits, one_by_one, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits, dense(tokens), rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_some_of_the_layers(model: Transformer, calls: list[Any]) -> None:
    """Whole layers alone; half a layer goes site by site."""
    resid = model.embed(torch.randint(20, (2, 70)))
    for start, stop, n_calls in ((0, 2, 2), (2, 6, 3), (0, 3, 0), (1, 3, 0), (2, 2, 0)):
        calls.clear()
        ours = model.run(resid, start, stop)
        assert len(calls) == n_calls
        torch.testing.assert_close(ours, model.run(resid, start, stop, tap=record()), rtol=1e-5, atol=1e-6)
    calls.clear()
    kept = resid.clone()
    model.run(resid)
    assert calls
    assert resid.equal(kept)


@torch.no_grad()
def test_with_a_cache(model: Transformer, calls: list[Any]) -> None:
    """A prompt, and more of it, and then tokens one by one, which are too few for it."""
    tokens, cache, logits = torch.randint(20, (2, 60)), Cache(60), []
    for part in tokens.split([23, 35, 1, 1], 1):
        logits.append(model.unembed(model.run(model.embed(part, cache=cache), cache=cache), part))
    assert len(calls) == 2 * (LAYERS + 1)
    torch.testing.assert_close(torch.cat(logits, 1), model(tokens), rtol=1e-4, atol=1e-5)


def test_goes_site_by_site_where_somebody_looks(model: Transformer, calls: list[Any]) -> None:
    """Taps, hooks on a site or a sublayer, other norms and gradients."""
    tokens, seen, hooked = torch.randint(20, (2, 70)), record(), []
    with torch.no_grad():
        logits = model(tokens)
        assert len(calls) == LAYERS + 1
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
        assert model(tokens).equal(logits)
        hook.remove()
        assert not model(tokens, norms=frozen(dict.fromkeys(range(2 * LAYERS + 1), torch.ones(1)))).equal(logits)
    torch.testing.assert_close(model(tokens), logits)
    assert not calls
    assert seen.values[Site.of(0, "mlp.post_act")].count_nonzero(-1).max() <= 32


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
    run = layers._between_attentions

    def noted(*args: Any) -> Any:
        given.append(args)
        return run(*args)

    monkeypatch.setattr(layers, "_between_attentions", noted)
    with torch.no_grad():
        model(torch.randint(20, (2, 20)))
    for args in given[:2] + given[-1:]:
        torch.library.opcheck(run.op, args)


@torch.no_grad()
def test_compiles_as_one_graph(model: Transformer) -> None:
    tokens = torch.randint(20, (2, 70))
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens), model(tokens))

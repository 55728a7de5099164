"""A site that nobody looks at is passed within one operator; the result is that of the sites one by one."""

import pytest
import torch
from torch import Tensor

from tests.engine.test_sites import given, normal, some, sparse
from thinwire.engine import sites
from thinwire.engine.layout import is_feature_major
from thinwire.engine.sites import Nonlinearity, map_and_keep, map_and_keep_twice
from thinwire.model import ModelConfig, Transformer
from thinwire.model.sparse import compile_sparse
from thinwire.model.taps import record
from thinwire.sites import Site


@pytest.mark.parametrize("nonlinearity", ["identity", "relu", "gelu"])
@pytest.mark.parametrize("lead", [(1, 16), (3, 41), (2, 64), (1, 300)])
@pytest.mark.parametrize(("width", "k"), [(130, 32), (130, 130), (300, 1), (40, 39)])
def test_operator_is_the_two_sites(width: int, k: int, lead: tuple[int, ...], nonlinearity: Nonlinearity) -> None:
    """With constant rows, tokens without any number, and maps without a nonzero."""
    x = given(lead, 33).detach()
    first, second = some(normal(width, 33), 0.1), some(normal(24, width, seed=4), 0.1)
    first[::5] = 0
    maps = [(*sparse(matrix), some(normal(len(matrix), seed=5), 0.5)) for matrix in (first, second)]
    with torch.no_grad():
        ours = map_and_keep_twice(x, maps[0], nonlinearity, k, maps[1], 6)
        twin = map_and_keep(map_and_keep(x, *maps[0], nonlinearity, k), *maps[1], "identity", 6)
        assert is_feature_major(ours)
        assert ours.equal(twin)
        nothing = (*sparse(torch.zeros(24, width)), torch.zeros(24))
        assert not map_and_keep_twice(x, maps[0], nonlinearity, k, nothing, 6).any()


def test_contract_of_torch() -> None:
    maps = [(*sparse(some(normal(*shape), 0.2)), normal(shape[0])) for shape in ((30, 20), (12, 30))]
    given_maps: list[Tensor] = []
    for pattern, values, bias in maps:
        given_maps += [values.detach(), bias, pattern.columns, pattern.starts]
    x = given((2, 9), 20).detach()
    torch.library.opcheck(sites._map_and_keep_twice.op, (x, *given_maps, sites.CODES["gelu"], 7, 3))


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    dense = Transformer(ModelConfig(n_layers=2, d_model=32, d_head=8, context=70, vocab_size=20))
    for name, matrix in dense.named_parameters():
        if matrix.ndim == 2 and "bigram" not in name:
            matrix.data *= torch.rand_like(matrix) < 0.1
    return compile_sparse(dense.eval().requires_grad_(False), below=1.0)


def test_model_looks_where_somebody_looks(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taps, hooks on the site and gradients make it two operators again, with the same logits."""
    calls: list[Tensor] = []

    def counted(*args: object) -> Tensor:
        calls.append(map_and_keep_twice(*args))  # pyright: ignore
        return calls[-1]

    monkeypatch.setattr(sites, "map_and_keep_twice", counted)
    tokens, seen = torch.randint(20, (2, 70)), record()
    with torch.no_grad():
        logits = model(tokens)
        assert len(calls) == 2
        assert model(tokens, tap=seen).equal(logits)
        post_act = seen.values[Site.of(0, "mlp.post_act")]
        hook = model.get_submodule("blocks.0.mlp.post_act").register_forward_hook(lambda *args: None)
        assert model(tokens).equal(logits)
        assert len(calls) == 3  # the other layer's
        hook.remove()
    torch.testing.assert_close(model(tokens), logits)
    assert len(calls) == 3
    assert post_act.count_nonzero(-1).max() <= 32
    hooked: list[Tensor] = []
    model.get_submodule("blocks.0.mlp.resid_delta").register_forward_hook(lambda *args: hooked.append(args[2]))
    with torch.no_grad():
        model(tokens)
    assert hooked[0] is calls[3]


def test_compiles_as_one_graph(model: Transformer) -> None:
    tokens = torch.randint(20, (2, 70))
    with torch.no_grad():
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(tokens), model(tokens))

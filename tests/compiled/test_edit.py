"""Reading and replacing weights, on sparse and dense modules alike."""

import pytest
import torch
from tiny import tiny_model, tiny_prompts

from thinwire.compiled.compile import compile_sparse
from thinwire.compiled.edit import bias_of, nonzeros, sharing, with_rows, with_values
from thinwire.compiled.modules import FeatureEmbedding, FeatureLinear, Sparse, SparseEmbedding, SparseLinear
from thinwire.model import Transformer

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def pair(biases: bool = True, mixed: bool = False) -> tuple[Transformer, Transformer]:
    """A model and its compiled twin; in a mixed one some matrices, and the embedding, are dense."""
    dense = tiny_model(density=0.1, biases=biases)
    if mixed:
        with torch.no_grad():
            for name in ("embedding", "blocks.0.attn.w_q"):
                weight = dense.get_submodule(name).get_parameter("weight")
                weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    return dense, compile_sparse(dense)


def test_modules_hold_the_matrix() -> None:
    dense, compiled = pair(biases=False, mixed=True)
    kinds = {"embedding": FeatureEmbedding, "unembedding": SparseLinear, "blocks.0.attn.w_q": FeatureLinear}
    for name, kind in kinds.items():
        assert type(compiled.get_submodule(name)) is kind
    for name, module in compiled.named_modules():
        if isinstance(module, Sparse | FeatureLinear):
            weight = dense.get_submodule(name).get_parameter("weight")
            assert torch.equal(module.weight, weight)  # pyright: ignore
            assert isinstance(module, FeatureLinear) or len(module.values) == weight.count_nonzero()
            assert bias_of(compiled, name).equal(bias_of(dense, name))
    assert isinstance(pair()[1].embedding, SparseEmbedding)


@pytest.mark.parametrize("name", ["blocks.0.attn.w_k", "blocks.0.attn.w_q", "embedding", "unembedding"])
def test_some_nonzeros_and_other_values(name: str) -> None:
    dense, compiled = pair(mixed=True)
    tokens, weight = tiny_prompts(dense), dense.get_submodule(name).get_parameter("weight").detach()
    some_rows, some_columns = torch.arange(len(weight)) % 2 == 0, torch.arange(weight.shape[1]) % 3 > 0
    for rows, columns in [(None, None), (some_rows, None), (None, some_columns), (some_rows, some_columns)]:
        ours, expected = (nonzeros(model, name, rows, columns) for model in (compiled, dense))
        for part in ("rows", "columns", "values"):
            assert getattr(ours, part).equal(getattr(expected, part))
        block = torch.zeros_like(weight).index_put((ours.rows, ours.columns), ours.values)
        kept = torch.ones_like(weight) if rows is None else rows[:, None] * torch.ones_like(weight)
        assert block.equal(weight * (kept if columns is None else kept * columns))
    values = torch.linspace(-1, 1, len(ours.values)).requires_grad_()
    logits = []
    for model, found in ((compiled, ours), (dense, expected)):
        named = with_values(model, name, found.positions, values)
        logits.append(torch.func.functional_call(model, named, (tokens,)))
        assert sharing(model, named)(tokens).equal(logits[-1])
    torch.testing.assert_close(logits[0], logits[1], **CLOSE)
    (own,), (theirs,) = (torch.autograd.grad(y.square().sum(), values) for y in logits)
    torch.testing.assert_close(own, theirs, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_sharing_and_replaced_rows() -> None:
    dense, compiled = pair(biases=False)
    tokens, row = tiny_prompts(dense), torch.randn(16, generator=torch.Generator().manual_seed(0))
    changed = {"blocks.0.mlp.w_in.bias": torch.linspace(-1, 1, 32)}
    logits = []
    for model in (compiled, dense):
        before = model(tokens)
        other = sharing(model, changed)
        assert other.bigram.weight.data_ptr() == model.bigram.weight.data_ptr()  # pyright: ignore
        token = int(tokens[0, 0])
        other.set_submodule("embedding", with_rows(model.embedding, [token + 2, token], row))
        assert isinstance(other.embedding, type(model.embedding))
        expected = torch.stack([row, dense.embedding.weight[token + 1], row])
        assert other.embedding(torch.arange(token, token + 3)).equal(expected)
        logits.append(other(tokens))
        assert model(tokens).equal(before)
        assert not torch.allclose(logits[-1], before, atol=1e-2)
    torch.testing.assert_close(logits[0], logits[1], **CLOSE)

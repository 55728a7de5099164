"""The forward pass: against a loop in NumPy, by hand, and spliced at every residual point."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from reference import forward
from tiny import SHAPE, tiny_model, tiny_prompts
from torch import Tensor

from thinwire.errors import UserError
from thinwire.model import ModelConfig, Transformer, next_token_loss
from thinwire.model.taps import record
from thinwire.sites import Site, all_sites, resid_points

SCHEMES = ("none", "added", "concatenated")
VARIANTS = [
    pytest.param({"positions": positions, "sink": sink}, id=f"{positions}-{'sink' if sink else 'nosink'}")
    for positions in SCHEMES
    for sink in (False, True)
]
OTHER_VARIANTS = [
    {"activation": "relu", "biases": False, "bigram": False},
    {"active_fraction": 1.0},
    {"active_residual": True, "active_fraction": 0.5},
    {"active_sites": ("attn.q", "mlp.post_act"), "active_fraction": 0.5},
    {"d_head": 16, "n_layers": 1, "mlp_ratio": 0.5, "sink": True},
]


@pytest.mark.parametrize("changes", [*VARIANTS, *OTHER_VARIANTS])
def test_equals_a_loop_in_numpy(changes: dict) -> None:
    model = tiny_model(density=0.5, **changes).double()
    tokens = tiny_prompts(model, rows=1)
    seen: dict[tuple[str, int], np.ndarray] = {}
    expected = forward.logits(model, tokens[0].tolist(), lambda s, i, x: seen.setdefault((s, i), x))
    recorded = record()
    ours = model(tokens, tap=recorded)[0]
    np.testing.assert_allclose(ours.detach().numpy(), expected, rtol=1e-9, atol=1e-9)
    for site, values in recorded.values.items():
        for position, x in enumerate(values[0]):
            np.testing.assert_allclose(x.detach().numpy(), seen[str(site), position], rtol=1e-9, atol=1e-9)


def by_hand() -> Transformer:
    """Two tokens, one layer, one head of two channels, one neuron, no norm gain, nothing sparsified."""
    model = Transformer(
        ModelConfig(
            n_layers=1,
            d_model=2,
            d_head=2,
            mlp_ratio=0.5,
            context=2,
            vocab_size=2,
            activation="relu",
            active_fraction=1,
            bigram=True,
        )
    )
    block = model.blocks[0]
    root2 = 2**0.5
    values = {
        model.embedding.weight: [[3.0, 4.0], [0.0, 5.0]],
        block.attn.w_q.weight: [[0.0, 0.0], [0.0, 0.0]],  # no query: attention is the plain average
        block.attn.w_k.weight: [[1.0, 2.0], [3.0, 4.0]],
        block.attn.w_v.weight: [[1.0, 0.0], [0.0, 0.0]],  # v0 = x0
        block.attn.w_v.bias: [0.0, 1.0],  # v1 = 1
        block.attn.w_o.weight: [[0.0, 0.0], [10 / root2, 0.0]],
        block.attn.w_o.bias: [0.0, 0.0],
        block.mlp.w_in.weight: [[1.0, 0.0]],
        block.mlp.w_in.bias: [-0.1],
        block.mlp.w_out.weight: [[0.0], [0.0]],
        block.mlp.w_out.bias: [0.0, 0.0],
        model.unembedding.weight: [[1.0, 0.0], [0.0, 2.0]],
        model.unembedding.bias: [0.0, 0.5],
        model.bigram.weight: [[7.0, 0.0], [0.0, 9.0]],
    }
    with torch.no_grad():
        for parameter, value in values.items():
            parameter.copy_(torch.tensor(value))
    return model


def test_worked_example() -> None:
    """Token 0 then token 1.

    h_0 is (3, 4) and (0, 5), both of RMS 5/√2, so act_in is √2·(0.6, 0.8) and √2·(0, 1).
    v0 is 0.6·√2 and 0; position 1 averages them: 0.3·√2. The output matrix makes of it 6 and 3 on channel 1.
    h_1 is (3, 10) and (0, 8), of RMS √54.5 and √32. The neuron is 3/√54.5 - 0.1, then relu(-0.1) = 0.
    Logits: norm(h) · (1, 0), norm(h) · (0, 2) + 0.5, plus the bigram row of the token.
    """
    model = by_hand()
    tokens = torch.tensor([[0, 1]])
    seen = record()
    logits = model(tokens, tap=seen)[0]
    rms = math.sqrt(54.5)
    expected = [[3 / rms + 7, 20 / rms + 0.5], [0, 2 * math.sqrt(2) + 0.5 + 9]]
    torch.testing.assert_close(logits, torch.tensor(expected))
    torch.testing.assert_close(seen.values[Site.parse("0.attn.resid_delta")][0], torch.tensor([[0.0, 6.0], [0.0, 3.0]]))
    torch.testing.assert_close(seen.values[Site.parse("0.mlp.post_act")][0], torch.tensor([[3 / rms - 0.1], [0.0]]))


@pytest.mark.parametrize("changes", VARIANTS)
def test_splice_at_every_residual_point(changes: dict) -> None:
    """Values and gradients; with activations computed again, or kept."""
    model = tiny_model(density=0.5, **changes)
    tokens = tiny_prompts(model)
    whole = model(tokens)
    gradients = gradients_of(model, next_token_loss(whole, tokens))
    for point, recompute in product(resid_points(model.config), (False, True)):
        head = model.run(model.embed(tokens), stop=point.index)
        cut = head.detach().requires_grad_()
        tail = model.unembed(model.run(cut, start=point.index, recompute=recompute), tokens)
        assert tail.equal(whole)
        spliced = gradients_of(model, next_token_loss(tail, tokens), keep=True)
        assert cut.grad is not None
        head.backward(cut.grad)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-5, atol=1e-7, msg=f"{point} {name}")
        assert spliced.keys() <= gradients.keys()


def gradients_of(model: Transformer, loss: Tensor, keep: bool = False) -> dict[str, Tensor]:
    """Gradients of a loss by parameter name; `keep` leaves them on the parameters."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    if not keep:
        model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("changes", VARIANTS)
def test_recorded_keys_are_all_sites_with_and_without_recompute(changes: dict) -> None:
    model = tiny_model(density=0.5, **changes)
    tokens = tiny_prompts(model)
    found = {}
    for recompute in (False, True):
        seen = record()
        logits = model(tokens, tap=seen, recompute=recompute)
        assert list(seen.values) == list(all_sites(model.config))
        for site, x in seen.values.items():
            assert x.shape == (*tokens.shape, site.width(model.config))
            k = model.config.n_active(site.kind, x.shape[-1])
            assert int((x != 0).sum(-1).max()) <= k
        on_activations = sum(x.float().square().mean() for x in seen.values.values())
        found[recompute] = gradients_of(model, next_token_loss(logits, tokens) + on_activations)
        assert list(seen.values) == list(all_sites(model.config))
    assert found[False].keys() == {name for name, _ in model.named_parameters()}
    for name, gradient in found[False].items():
        torch.testing.assert_close(found[True][name], gradient, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.parametrize("positions", SCHEMES)
def test_later_tokens_change_nothing_earlier(positions: str) -> None:
    model = tiny_model(positions=positions, sink=True)
    tokens = tiny_prompts(model, rows=1)
    other = tokens.clone()
    other[0, 5:] = (other[0, 5:] + 1) % model.config.vocab_size
    torch.testing.assert_close(model(other)[:, :5], model(tokens)[:, :5])
    assert not torch.allclose(model(other)[:, 5:], model(tokens)[:, 5:])


def test_prompt_longer_than_the_context_is_refused() -> None:
    model = tiny_model()
    model(tiny_prompts(model, length=SHAPE.context))
    with pytest.raises(UserError, match="17 tokens does not fit the context of 16"):
        model(tiny_prompts(model, length=SHAPE.context + 1))


def test_same_seed_same_weights() -> None:
    weights = Transformer(SHAPE, seed=3).state_dict()
    again, other = Transformer(SHAPE, seed=3).state_dict(), Transformer(SHAPE, seed=4).state_dict()
    assert all(weights[name].equal(again[name]) for name in weights)
    assert not weights["embedding.weight"].equal(other["embedding.weight"])


@pytest.mark.parametrize("changes", [{"positions": "concatenated", "sink": True}, {"positions": "added"}])
def test_whole_model_compiles_as_one_graph(changes: dict) -> None:
    model = tiny_model(n_layers=1, **changes)
    tokens = tiny_prompts(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    expected = gradients_of(model, next_token_loss(model(tokens), tokens))
    ours = gradients_of(model, next_token_loss(compiled(tokens), tokens))
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_next_token_loss_is_the_mean_cross_entropy() -> None:
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, 0.0]]])
    expected = (-math.log(3 / 4) - math.log(1 / 2)) / 2
    assert next_token_loss(logits, torch.tensor([[1, 0]])).item() == pytest.approx(expected)

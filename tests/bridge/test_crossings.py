"""Crossings and their losses against oracles: equal models, one crossing at a time, finite differences."""

from itertools import combinations

import pytest
import torch
from bridge_pieces import identity_bridge, random_bridge
from tiny import tiny_model, tiny_prompts
from torch import Tensor, nn

from thinwire.bridge.crossings import Pair
from thinwire.bridge.losses import bridge_losses, divergence, nmse
from thinwire.bridge.targets import OwnTarget
from thinwire.compiled import compile_sparse
from thinwire.model import Transformer

POINTS = 5


def pair_of(dense: Transformer, sparse: Transformer) -> Pair:
    return Pair.of(OwnTarget(dense), sparse)


def test_identity_bridges_between_equal_models_are_exact() -> None:
    model = tiny_model(0.25)
    pair, bridge, tokens = pair_of(model, model), identity_bridge(POINTS, 16), tiny_prompts(model)
    own = pair.own(bridge, tokens)
    for logits in (*pair.into_sparse(bridge, own[0].streams, tokens), *pair.into_dense(bridge, own[1].streams, tokens)):
        assert torch.equal(logits, model(tokens))
    losses = bridge_losses(pair, bridge, tokens, own, range(POINTS))
    assert losses["nmse"] == 0
    assert max(losses["kl_to_sparse"], losses["kl_to_dense"]) < 1e-6


def test_shared_prefixes_equal_one_crossing_at_a_time() -> None:
    dense, sparse = tiny_model(seed=1), tiny_model(0.1, seed=2)
    pair, bridge, tokens = pair_of(dense, sparse), random_bridge(POINTS, 16), tiny_prompts(dense)
    streams = [own.streams for own in pair.own(bridge, tokens)]
    for chosen in ([0, 1, 2, 3, 4], [1, 4], [4]):
        crossed = list(pair.into_sparse(bridge, streams[0], tokens, chosen))
        back = list(pair.into_dense(bridge, streams[1], tokens, chosen))
        for i, to_sparse, to_dense in zip(chosen, crossed, back, strict=True):
            encoded = bridge.encode(i, dense.run(dense.embed(tokens), 0, i))
            decoded = bridge.decode(i, sparse.run(sparse.embed(tokens), 0, i))
            assert torch.allclose(to_sparse, sparse.unembed(sparse.run(encoded, i), tokens), atol=1e-5)
            assert torch.allclose(to_dense, dense.unembed(dense.run(decoded, i), tokens), atol=1e-5)


def test_a_compiled_sparse_model_crosses_alike() -> None:
    dense, sparse = tiny_model(seed=1), tiny_model(0.1, seed=2)
    bridge, tokens = random_bridge(POINTS, 16), tiny_prompts(dense)
    found = []
    for model in (sparse, compile_sparse(sparse, below=1.1)):
        pair = pair_of(dense, model)
        losses = bridge_losses(pair, bridge, tokens, pair.own(bridge, tokens), range(POINTS))
        gradients = torch.autograd.grad(sum(losses.values(), torch.zeros(())), list(bridge.parameters()))
        found.append([*losses.values(), *gradients])
    for plain, compiled in zip(*found, strict=True):
        assert torch.allclose(plain, compiled, atol=1e-5)


def test_passes_of_sublayers_with_and_without_shared_prefixes() -> None:
    dense, sparse = tiny_model(seed=1), tiny_model(0.1, seed=2)
    pair, bridge, tokens = pair_of(dense, sparse), random_bridge(POINTS, 16), tiny_prompts(dense)
    passed = 0

    def count(module: nn.Module, args: tuple[Tensor, ...], output: object) -> None:
        nonlocal passed
        passed += len(args[0]) // len(tokens)

    for sublayer in (*dense.sublayers, *sparse.sublayers):
        sublayer.register_forward_hook(count)
    own = pair.own(bridge, tokens)
    bridge_losses(pair, bridge, tokens, own, range(POINTS))
    assert passed == 28
    passed = 0
    pair.own(bridge, tokens)
    for i in range(POINTS):  # one at a time, each with the prefix of its own
        own = pair.own_dense(bridge, tokens), pair.own_sparse(bridge, tokens)
        passed -= 2 * (4 - i)  # a prefix ends at its junction
        bridge_losses(pair, bridge, tokens, own, [i])
    assert passed == 48


def test_gradients_flow_to_both_sides_and_match_finite_differences() -> None:
    dense, sparse = (
        tiny_model(seed=1, active_fraction=1.0).double(),
        tiny_model(0.3, seed=2, active_fraction=1.0).double(),
    )
    pair, bridge, tokens = pair_of(dense, sparse), random_bridge(POINTS, 16).double(), tiny_prompts(dense, 2, 6)

    def total() -> Tensor:
        own = pair.own(bridge, tokens)
        logits = [*pair.into_sparse(bridge, own[0].streams, tokens), *pair.into_dense(bridge, own[1].streams, tokens)]
        guide = own[0].logits.detach().log_softmax(-1)
        return sum((_kl(guide, each) for each in logits), torch.zeros((), dtype=torch.float64))

    places = [
        *bridge.encoders[1].parameters(),
        *bridge.decoders[3].parameters(),
        sparse.get_parameter("blocks.0.mlp.w_in.weight"),
    ]
    gradients = torch.autograd.grad(total(), places)
    generator = torch.Generator().manual_seed(0)
    for place, gradient in zip(places, gradients, strict=True):
        assert gradient.abs().max() > 0
        direction = torch.randn(place.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            place.add_(1e-6 * direction)
            above = total()
            place.sub_(2e-6 * direction)
            slope = (above - total()) / 2e-6
            place.add_(1e-6 * direction)
        assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-4)


def _kl(guide: Tensor, logits: Tensor) -> Tensor:
    return (guide.exp() * (guide - logits.log_softmax(-1))).sum(-1).mean()


def test_sampled_junctions_average_to_the_gradient_of_all() -> None:
    dense, sparse = tiny_model(seed=1), tiny_model(0.1, seed=2)
    pair, bridge, tokens = pair_of(dense, sparse), random_bridge(POINTS, 16), tiny_prompts(dense)

    def gradient(chosen: tuple[int, ...]) -> Tensor:
        losses = bridge_losses(pair, bridge, tokens, pair.own(bridge, tokens), chosen)
        total = sum(losses.values(), torch.zeros(()))
        found = torch.autograd.grad(total, list(bridge.parameters()), allow_unused=True)
        return torch.cat(
            [
                torch.zeros_like(p).flatten() if g is None else g.flatten()
                for p, g in zip(bridge.parameters(), found, strict=True)
            ]
        )

    subsets = list(combinations(range(POINTS), 2))
    mean = sum((gradient(chosen) for chosen in subsets), torch.zeros(())) / len(subsets)
    assert torch.allclose(mean, gradient(tuple(range(POINTS))), atol=1e-6)


def test_losses_by_hand() -> None:
    target = torch.tensor([[[1.0, 0.0], [3.0, 0.0]]])
    assert nmse(target + torch.tensor([1.0, 0.0]), target) == pytest.approx(1.0)  # error 1/2 a channel, variance 1/2
    assert nmse(target, target) == 0
    p = torch.tensor([[[0.5, 0.5]]])
    assert float(divergence(p.log(), torch.tensor([[[0.0, 3.0]]]).log_softmax(-1))) == pytest.approx(0.855, abs=1e-3)

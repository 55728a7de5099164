"""Adapters of Hugging Face models against the models themselves, and moves of reads by finite differences."""

import pytest
import torch
from bridge_pieces import random_bridge
from hf_pieces import KINDS, hf_model, hf_target
from tiny import tiny_model

from thinwire.bridge.crossings import Pair
from thinwire.bridge.hf.folder import FAMILIES
from thinwire.bridge.hf.target import HFTarget
from thinwire.bridge.losses import bridge_losses
from thinwire.bridge.maps import Bridge, Junction, matching_points
from thinwire.bridge.reads import Decoder, Read
from thinwire.bridge.ridge import fit_ridge
from thinwire.bridge.steer import Steering
from thinwire.errors import UserError
from thinwire.tasks import PairBatch


def prompts(length: int, rows: int = 3) -> torch.Tensor:
    return torch.randint(40, (rows, length), generator=torch.Generator().manual_seed(length))


def logits_of(target: HFTarget, tokens: torch.Tensor) -> torch.Tensor:
    return target.unembed(target.run(target.embed(tokens), 0, target.n_points - 1), tokens)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_logits_are_those_of_the_model(kind: str, attention: str) -> None:
    model = hf_model(kind)
    model.set_attn_implementation(attention)
    target = FAMILIES[KINDS[kind][0]](model)
    for length in (1, 2, 7, 20):
        tokens = prompts(length)
        theirs = model(tokens).logits
        assert theirs.abs().max() > 0.5
        assert (logits_of(target, tokens) - theirs).abs().max() <= 1e-5
        assert (target.moved(tokens, {}) - theirs).abs().max() <= 1e-5
        assert (theirs[:, 0] - model(tokens[:, :1]).logits[:, 0]).abs().max() <= 1e-5, "no token sees a later one"


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_points_are_the_model_s_own(kind: str) -> None:
    target, tokens = hf_target(kind), prompts(9)
    parallel = kind == "neox parallel"
    assert (target.per_layer, target.n_points) == ((1, 3) if parallel else (2, 5))
    assert (target.d_model, target.vocab_size, target.context) == (16, 40, 20)
    assert target.centred != kind.startswith("llama")
    theirs = target.model(tokens, output_hidden_states=True).hidden_states  # before each layer; the last is normed
    resid = target.embed(tokens)
    assert torch.allclose(resid, theirs[0], atol=1e-6)
    resid = target.run(resid, 0, target.per_layer)
    assert torch.allclose(resid, theirs[1], atol=1e-5)
    last = target.run(resid, target.per_layer, target.n_points - 1)
    assert torch.allclose(target.norms(target.n_points - 1)[0](last), theirs[2], atol=1e-5)
    reads = target.reads(tokens)
    assert sorted(reads) == list(range(target.n_points))
    assert torch.allclose(reads[target.n_points - 1], theirs[2], atol=1e-5)
    other = prompts(9).flip(0)  # moved by the whole difference, a read is the other prompt's
    for point in (0, target.n_points - 1):
        exchanged = target.moved(tokens, {point: target.reads(other)[point] - reads[point]})
        if point:
            assert torch.allclose(exchanged, target.moved(other, {}), atol=1e-5)
        else:
            assert not torch.allclose(exchanged, target.moved(tokens, {}), atol=1e-3)
    for point in range(1, target.n_points - 1):  # a pass in two parts is the pass
        halves = target.run(target.run(target.embed(tokens), 0, point), point, target.n_points - 1)
        assert torch.allclose(halves, last, atol=1e-5)


def test_junctions_of_a_parallel_model_are_even_points_of_the_sparse_one() -> None:
    assert matching_points(3, 5, per_layer=1) == (Junction(0, 0), Junction(1, 2), Junction(2, 4))
    assert matching_points(5, 5) == tuple(Junction(i, i) for i in range(5))
    with pytest.raises(UserError, match=r"3 residual points and the sparse one 3 \(2 and 1 layers\)"):
        matching_points(3, 3, per_layer=1)


@pytest.mark.parametrize("kind", ["gpt2", "llama grouped", "neox", "neox parallel"])
@torch.no_grad()
def test_a_move_is_what_the_norm_makes_of_the_decoded_change(kind: str) -> None:
    """By finite differences through the model's own norms, on streams whose size the change leaves as it is."""
    target, sparse = hf_target(kind), tiny_model(0.2, seed=2)
    bridge = random_bridge(target.n_points, 16)
    bridge.junctions = matching_points(target.n_points, 5, target.per_layer)
    decoder, channel, step = Decoder(bridge, sparse, target), 7, 1e-2
    generator = torch.Generator().manual_seed(0)
    for i, (point, sparse_point) in enumerate(bridge.junctions):
        h = torch.randn(4, 16, generator=generator)
        h = h / h.square().mean(-1, keepdim=True).sqrt() * bridge.sparse_scales[i]
        change = torch.zeros(16)
        change[channel] = step
        there = bridge.decode(i, h + change) - bridge.decode(i, h)
        x = 0.5 * torch.randn(4, 16, generator=generator)
        column = there - there.mean(-1, keepdim=True) if target.centred else there
        x = x - (x * column).sum(-1, keepdim=True) / column.square().sum(-1, keepdim=True) * column
        size = (x - x.mean(-1, keepdim=True) if target.centred else x).square().mean(-1, keepdim=True).sqrt()
        x = x / size * bridge.dense_scales[i]
        delta = change * sparse.norms[sparse_point].weight / bridge.sparse_scales[i]
        move = decoder.moves({sparse_point: delta.expand(1, 4, 16)})[point]
        for norm in target.norms(point):
            gain = norm.get_parameter("weight") / target.gain(point)
            assert torch.allclose((norm(x + there) - norm(x - there)) / 2, gain * move[0], rtol=2e-3, atol=step * 1e-3)
        assert move.abs().max() > 0.1 * step


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "neox parallel"])
@torch.no_grad()
def test_moved_logits_are_those_of_the_changed_stream(kind: str) -> None:
    """A small change of the stream that keeps its size is a move of all its reads: by finite differences."""
    target, tokens = hf_target(kind).double(), prompts(6)
    generator = torch.Generator().manual_seed(0)
    for point in range(target.n_points):
        stream = target.run(target.embed(tokens), 0, point)
        centred = stream - stream.mean(-1, keepdim=True) if target.centred else stream
        change = torch.randn(stream.shape, generator=generator, dtype=torch.float64)
        along = centred / centred.norm(dim=-1, keepdim=True)
        change = 1e-4 * (change - (change * along).sum(-1, keepdim=True) * along)  # keeps the size to first order
        read = change - change.mean(-1, keepdim=True) if target.centred else change
        move = target.gain(point) * read / centred.square().mean(-1, keepdim=True).sqrt()
        moved = target.moved(tokens, {point: move})

        def only_read(x: torch.Tensor, point: int = point, change: torch.Tensor = change) -> torch.Tensor:
            """The rest of the pass when the sublayer at a point reads a changed stream, which itself stays."""
            if point == target.n_points - 1:
                return target.unembed(x + change, tokens)
            after = target.run(x + change, point, point + 1) - change
            return target.unembed(target.run(after, point + 1, target.n_points - 1), tokens)

        before = logits_of(target, tokens)
        expected = only_read(stream) - before
        assert (moved - before - expected).norm() < 5e-3 * expected.norm()
        assert expected.norm() > 0


def test_a_bridge_to_a_parallel_model_crosses_and_steers_at_its_points() -> None:
    dense, sparse = hf_target("neox parallel"), tiny_model(0.2, seed=2)
    pair = Pair.of(dense, sparse)
    bridge = Bridge(matching_points(pair.dense_points, pair.sparse_points, dense.per_layer), 16, 16)
    fit_ridge(pair, bridge.requires_grad_(False), (prompts(12, rows=30) for _ in range(3)), 1e-4)
    tokens = prompts(8, rows=4)
    own = pair.own(bridge, tokens)
    losses = bridge_losses(pair, bridge, tokens, own, range(3))
    assert all(bool(value.isfinite()) for value in losses.values())
    ends = [stream[-1] for stream in (own[0].streams, own[1].streams)]
    assert torch.allclose(dense.unembed(ends[0], tokens), own[0].logits, atol=1e-5)
    for i, (at, at_sparse) in enumerate(bridge.junctions):
        crossed = list(pair.into_sparse(bridge, own[0].streams, tokens))[i]
        by_hand = sparse.unembed(sparse.run(bridge.encode(i, dense.run(dense.embed(tokens), 0, at)), at_sparse), tokens)
        assert torch.allclose(crossed, by_hand, atol=1e-5)
    answers = torch.arange(4)
    batch = PairBatch(tokens, torch.tensor([7, 7, 7, 7]), answers, answers.roll(2))
    steering = Steering.of(dense, sparse, Decoder(bridge, sparse, dense), batch)
    moves = steering.moves([Read(1, 3), Read(2, 5), Read(4, 5)])
    assert set(moves) == {1, 2}, "the sparse points 2 and 4; the dense model has nothing at 1"
    assert steering.along(moves)[0].log_odds.abs().max() > 0
    with pytest.raises(UserError, match=r"joins no sparse point that is read \(1, 3\); give reads at 0, 2, 4"):
        steering.moves([Read(1, 3), Read(3, 3)])


@torch.no_grad()
def test_the_size_of_a_centred_stream_is_taken_around_its_mean() -> None:
    dense, sparse = hf_target("gpt2"), tiny_model(0.2, seed=2)
    dense.model.transformer.wpe.weight.add_(3.0)  # a mean over channels, which no norm passes on
    pair, bridge = Pair.of(dense, sparse), Bridge(matching_points(5, 5), 16, 16).requires_grad_(False)
    tokens = prompts(12, rows=30)
    fit_ridge(pair, bridge, [tokens], 1e-4)
    stream = pair.own_dense(bridge, tokens).streams[2]
    assert float(stream.square().mean().sqrt()) > 2.9
    assert float(bridge.dense_scales[2]) == pytest.approx(float(stream.var(-1, correction=0).mean().sqrt()), rel=1e-4)

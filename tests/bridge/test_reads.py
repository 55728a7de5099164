"""Moves of reads against oracles: a model bridged to itself, planted circuits, and alignment by hand."""

from collections.abc import Callable

import planted
import pytest
import torch
from bridge_pieces import identity_bridge, random_bridge
from tiny import SHAPE, tiny_model, tiny_prompts

from thinwire.bridge.reads import Decoder, Read, all_reads, circuit_reads
from thinwire.bridge.steer import Steering, differences, norm_matched, random_reads, swapped
from thinwire.bridge.targets import OwnTarget
from thinwire.bridge.transfer import Case, transfer
from thinwire.sites import Node
from thinwire.tasks import PairBatch


def batch_of(tokens: torch.Tensor, last: list[int]) -> PairBatch:
    n = len(tokens)
    answers = torch.arange(n)
    return PairBatch(tokens, torch.tensor(last), answers, answers.roll(n // 2))


def test_reads_of_a_circuit() -> None:
    names = ["0.attn.act_in:3", "0.attn.act_in:18", "0.mlp.resid_delta:5", "1.mlp.act_in:5", "1.attn.q:2.1"]
    nodes = [Node.parse(name, SHAPE.replace(positions="concatenated")) for name in names]  # channel 18 is a position's
    assert circuit_reads(nodes, 2, 16, later=False) == (Read(0, 3), Read(3, 5))
    assert circuit_reads(nodes, 2, 16) == (Read(0, 3), Read(2, 5), Read(3, 5), Read(4, 5))


def test_prompts_are_aligned_at_their_last_tokens() -> None:
    batch = batch_of(torch.zeros(2, 4, dtype=torch.int64), [3, 1])
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 0.0, 0.0]])[..., None]
    change = differences({0: x}, batch)[0][..., 0]
    assert change[0].tolist() == [0, 0, 10 - 3, 20 - 4]
    assert change[1].tolist() == [3 - 10, 4 - 20, 0, 0]


def test_the_whole_difference_at_the_last_read_gives_the_other_prompt_s_logits() -> None:
    model = tiny_model(bigram=False)
    tokens = tiny_prompts(model, 4)
    batch = batch_of(tokens, [8, 8, 8, 8])
    for dose in ("sparse/dense", "dense/sparse"):  # the same, since the scales are equal
        decoder = Decoder(identity_bridge(5, 16), model, OwnTarget(model), dose)
        steering = Steering.of(OwnTarget(model), model, decoder, batch)
        reads = [Read(4, channel) for channel in range(16)]
        one, two = steering.along(steering.moves(reads))
        logits = steering.before.log_softmax(-1)
        wanted = (logits[swapped(batch)] - logits).gather(1, batch.foil[:, None])[:, 0]
        assert torch.allclose(torch.cat([one.log_ratios, two.log_ratios]), wanted, atol=1e-5)
        assert torch.allclose(steering.along(steering.moves(reads), 0.0)[0].log_odds, torch.zeros(2), atol=1e-6)


def test_a_move_is_what_the_changed_stream_changes_in_a_read() -> None:
    dense, sparse, bridge = tiny_model(seed=1), tiny_model(0.2, seed=2), random_bridge(5, 16)
    target = OwnTarget(dense)
    stream = 3 * torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(0))
    change = torch.zeros(16)
    change[7] = 1e-3
    point, channel = 3, 7
    rms = stream.square().mean().sqrt()
    read_change = {point: change * sparse.norms[point].weight[channel] / rms}
    moved = Decoder(bridge, sparse, target).moves(read_change)[point]
    h_sparse = stream / rms * bridge.sparse_scales[point]  # streams at their mean sizes, where the maps are fitted
    changed = h_sparse + change / rms * bridge.sparse_scales[point]
    by_hand = bridge.decode(point, changed) - bridge.decode(point, h_sparse)
    expected = target.gain(point) * by_hand / bridge.dense_scales[point]
    assert torch.allclose(moved, expected, atol=1e-6)
    assert moved.abs().max() > 0


def test_random_reads_and_norms() -> None:
    generator = torch.Generator().manual_seed(0)
    deltas = {1: torch.randn(4, 3, 8, generator=generator), 2: torch.zeros(4, 3, 8)}
    deltas[1][..., 5] = 0
    reads = (Read(1, 0), Read(1, 1), Read(2, 3))
    found = random_reads(reads, deltas, generator)
    assert len(found) == 2  # nothing else changes at point 2
    assert all(read.point == 1 and read.channel not in (0, 1, 5) for read in found)
    moves = {1: torch.randn(4, 3, 6, generator=generator), 2: torch.randn(4, 3, 6, generator=generator)}
    matched = norm_matched(moves, {1: torch.randn(4, 3, 6, generator=generator)})
    assert float(matched[1].norm()) == pytest.approx(float(moves[1].norm()))
    assert not matched[2].any()


@pytest.mark.parametrize("plant", [planted.mlp, planted.attention, planted.chain])
def test_a_planted_circuit_transfers_and_random_nodes_do_not(plant: Callable[[], planted.Planted]) -> None:
    found_in = plant()
    model = found_in.model
    bridge = identity_bridge(2 * model.config.n_layers + 1, model.config.d_model)
    target = OwnTarget(model)
    batch = found_in.planted.pairs(16, "heldout", 0)
    case = Case("planted", target, model, Decoder(bridge, model, target), batch)
    reads = circuit_reads(found_in.nodes, model.config.n_layers, model.config.d_model)
    for ablation in ("mean", "exchange"):
        found = transfer(case, reads, ablation, draws=5)
        assert found.own.accuracy == 1
        assert found.circuit.accuracy <= 0.5, ablation
        assert found.circuit.loss > 2 * found.random_nodes[-1], ablation
    assert set(all_reads(model, batch.tokens)) == set(range(2 * model.config.n_layers + 1))

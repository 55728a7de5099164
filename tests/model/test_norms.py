"""Norms as an argument of the forward pass: recorded, and frozen at the scales of another run."""

import numpy as np
import pytest
import torch
from reference import forward
from tiny import tiny_model, tiny_prompts

from thinwire.model.norms import ScaleRecorder, frozen
from thinwire.model.taps import patch
from thinwire.sites import Node
from thinwire.tasks import PairBatch, last_logits, norms_on

SCHEMES = ("none", "added", "concatenated")
REMOVED = {"0.attn.v:0.1": 0.4, "0.mlp.post_act:3": -0.7, "1.attn.resid_delta:5": 2.0}
"""Nodes and the values they are set to."""


@pytest.mark.parametrize("positions", SCHEMES)
@torch.no_grad()
def test_recording_changes_nothing_and_own_scales_give_the_same_logits_to_the_bit(positions: str) -> None:
    model = tiny_model(positions=positions)
    tokens = tiny_prompts(model)
    expected, seen = model(tokens), ScaleRecorder()
    assert model(tokens, norms=seen).equal(expected)
    assert model(tokens, norms=frozen(seen.scales)).equal(expected)
    assert list(seen.scales) == [0, 1, 2, 3, 4]
    assert all(scale.shape == (*tokens.shape, 1) for scale in seen.scales.values())


@pytest.mark.parametrize("positions", SCHEMES)
@torch.no_grad()
def test_with_nodes_removed_equals_a_loop_in_numpy(positions: str) -> None:
    model = tiny_model(density=0.5, positions=positions, sink=True).double()
    tokens = tiny_prompts(model, rows=1)
    row, kept = tokens[0].tolist(), {}
    nodes = {Node.parse(name, model.config): value for name, value in REMOVED.items()}

    def remember(point: int, position: int, x: np.ndarray) -> float:
        return kept.setdefault((point, position), forward.own_scale(point, position, x))

    def remove(site: str, position: int, x: np.ndarray) -> None:
        for node, value in nodes.items():
            if str(node.site) == site:
                x[node.index] = value

    forward.logits(model, row, scale=remember)
    expected = forward.logits(model, row, remove, lambda point, position, x: kept[point, position])
    seen = ScaleRecorder()
    model(tokens, norms=seen)
    ours = model(tokens, tap=patch(nodes), norms=frozen(seen.scales))[0]
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-9, atol=1e-9)
    assert not np.allclose(model(tokens, tap=patch(nodes))[0].numpy(), expected, atol=1e-3), "its own scales differ"


@pytest.mark.parametrize("positions", SCHEMES)
@torch.no_grad()
def test_scales_of_the_last_logits_fit_folded_trials(positions: str) -> None:
    model = tiny_model(positions=positions)
    tokens = tiny_prompts(model, rows=4)
    last, answer = torch.tensor([8, 5, 3, 8]), torch.tensor([1, 1, 2, 2])
    batch = PairBatch(tokens, last, answer, 3 - answer)
    norms = norms_on(model, batch, frozen_norms=True, copies=3)
    folded = PairBatch(tokens.repeat(3, 1), last.repeat(3), answer.repeat(3), (3 - answer).repeat(3))
    assert last_logits(model, folded, norms=norms).equal(last_logits(model, folded))
    seen = ScaleRecorder()
    model(tokens, norms=seen)
    nodes = {Node.parse(name, model.config): value for name, value in REMOVED.items()}
    everywhere = model(tokens, tap=patch(nodes), norms=frozen(seen.scales))[torch.arange(4), last]
    torch.testing.assert_close(last_logits(model, folded, patch(nodes), norms=norms), everywhere.repeat(3, 1))
    assert norms_on(model, batch, frozen_norms=False)(0, model.norm, model.embed(tokens)).equal(
        model.norm(model.embed(tokens))
    )

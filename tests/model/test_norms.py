"""Norms as an argument of the forward pass: recorded, and frozen at the scales of another run."""

import numpy as np
import pytest
import torch
from cases import case
from reference import forward
from tiny import tiny_model, tiny_prompts

from thinwire.compiled import compile_sparse
from thinwire.engine.layout import activations
from thinwire.model.norms import RMSNorm, ScaleRecorder, frozen
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


@torch.no_grad()
def test_a_norm_is_the_same_in_every_dtype_and_layout() -> None:
    """On small numbers, whose mean square is far below the machine epsilon of half precision."""
    x = (torch.arange(1, 9) * 1e-3).expand(1, 4, 8)
    expected = (x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()).double()
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        norm, own = RMSNorm(8).to(dtype), x.to(dtype)
        by_feature = activations(own.movedim(-1, 0).reshape(8, -1).contiguous(), own.shape[:-1])
        for value in (norm(own), norm(by_feature), frozen({0: norm.scale(own)})(0, norm, own)):
            with case(dtype):
                assert value.dtype == dtype
                torch.testing.assert_close(value.double(), expected, rtol=4 * torch.finfo(dtype).eps, atol=1e-5)


@torch.no_grad()
def test_own_scales_frozen_in_half_precision_give_the_same_logits() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        for model in (tiny_model(density=1 / 16).to(dtype), compile_sparse(tiny_model(density=1 / 16)).to(dtype)):
            tokens, seen = tiny_prompts(model), ScaleRecorder()
            own = model(tokens, norms=seen)
            with case(dtype, type(model)):
                gap = (model(tokens, norms=frozen(seen.scales)) - own).abs().max().item()
                assert gap < 8 * torch.finfo(dtype).eps * own.abs().max().item()

"""Losses that are not finite: one sentence that says where, and a checkpoint that is still good."""

import math
from pathlib import Path

import pytest
import torch
from cases import case
from safetensors.torch import load_file
from tiny import synthetic_batch, tiny_run

from thinwire import artifact
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.train import Monitoring, train
from thinwire.train.finite import NotFinite, check_weights, origin
from thinwire.train.loop import CHECKPOINT
from thinwire.train.step import State, new_state, train_step

CONFIG = tiny_run()
BATCH = synthetic_batch(0, CONFIG)


def spoilt(name: str, value: float) -> State:
    """A fresh state one parameter of which holds this value everywhere."""
    state = new_state(CONFIG)
    with torch.no_grad():
        state.model.get_parameter(name).fill_(value)
    return state


def test_the_first_place_that_is_not_finite_is_named() -> None:
    for value in [math.nan, math.inf]:
        for name, where in [
            ("embedding.weight", "in the embedding"),
            ("blocks.0.attn.norm.weight", "at site 0.attn.act_in"),
            ("blocks.0.attn.w_k.weight", "at site 0.attn.k"),
            ("blocks.1.mlp.w_in.weight", "at site 1.mlp.post_act"),
            ("blocks.1.mlp.w_out.weight", "at site 1.mlp.resid_delta"),
            ("norm.weight", "in the logits"),
            ("bigram.weight", "in the logits"),
        ]:
            with case(name, where, value):
                assert origin(spoilt(name, value).objective, BATCH) == where


def test_a_residual_point_is_named_when_only_the_sum_overflows() -> None:
    state = new_state(CONFIG)
    with torch.no_grad():
        state.model.embedding.weight.fill_(3e38)
        state.model.get_parameter("blocks.0.attn.w_o.bias").fill_(3e38)
    assert origin(state.objective, BATCH) == "at residual point h_1"


def test_a_gradient_is_named_when_the_forward_pass_is_finite() -> None:
    state = new_state(CONFIG)
    state.model.get_parameter("blocks.0.mlp.w_out.weight").register_hook(lambda grad: grad * math.inf)
    assert origin(state.objective, BATCH) == "in the gradient of blocks.0.mlp.w_out.weight"


def test_a_gradient_whose_norm_overflows_is_said() -> None:
    state = new_state(CONFIG)
    with torch.no_grad():
        state.model.get_parameter("unembedding.weight").mul_(1e30)
    assert origin(state.objective, BATCH).startswith("in the norm of the gradient")


def test_the_step_raises_the_sentence_and_changes_no_weight() -> None:
    state = spoilt("blocks.1.attn.w_v.weight", math.inf)
    before = {name: p.clone() for name, p in state.model.named_parameters()}
    said = r"^The loss stopped being finite at step 0, first at site 1.attn.v; lower learning_rate or raise epsilon\.$"
    with pytest.raises(NotFinite, match=said):
        train_step(state, BATCH, CONFIG)
    assert all(torch.equal(p, before[name]) for name, p in state.model.named_parameters())


def test_weights_that_are_not_finite_are_named() -> None:
    state = spoilt("blocks.1.attn.w_v.weight", math.nan)
    with pytest.raises(NotFinite, match=r"^The weights of blocks.1.attn.w_v.weight stopped being finite in the update"):
        check_weights(state.objective, 3)
    check_weights(new_state(CONFIG).objective, 3)


def test_the_last_good_checkpoint_is_kept(tiny_tokens: Tokens, tmp_path: Path, monkeypatch) -> None:
    """Weights turn into NaN in step 10, right before a checkpoint would be written."""

    def spoil(done: int, total: int, status: str) -> None:
        if done == 10:
            with torch.no_grad():
                kept[0].model.embedding.weight.fill_(math.nan)

    kept: list[State] = []

    def remember(*arguments) -> State:
        kept.append(new_state(*arguments))
        return kept[0]

    monkeypatch.setattr("thinwire.train.loop.new_state", remember)
    with pytest.raises(UserError, match=r"embedding.weight .* step 10; .* \(the checkpoint of step 5 is kept\)\.$"):
        train(CONFIG, tiny_tokens, tmp_path, monitoring=Monitoring(spoil))
    assert not artifact.is_finished(tmp_path)
    assert all(torch.isfinite(value).all() for value in load_file(tmp_path / CHECKPOINT).values())
    monkeypatch.undo()
    train(CONFIG, tiny_tokens, tmp_path)


def test_a_run_that_diverges_at_once_says_that_nothing_is_kept(tiny_tokens: Tokens, tmp_path: Path) -> None:
    config = CONFIG.replace(learning_rate=1e36, weight_decay=0, warmup=0)
    with pytest.raises(UserError, match=r"finite at step 1, first .* \(there is no checkpoint yet\)\.$"):
        train(config, tiny_tokens, tmp_path)

"""Agreement against numpy, equal models, and a map that explains half of the variance."""

import numpy as np
import pytest
import torch
from bridge_pieces import identity_bridge, random_bridge
from tiny import tiny_model, tiny_prompts

from thinwire.bridge.agreement import Tally, token_losses
from thinwire.bridge.crossings import Pair
from thinwire.bridge.profile import measure_profile
from thinwire.bridge.targets import OwnTarget

POINTS = 5


def test_equal_models_agree_wholly() -> None:
    model = tiny_model(0.25)
    bridge = identity_bridge(POINTS, 16)
    tally = Tally(bridge)
    profile = measure_profile(Pair.of(OwnTarget(model), model), bridge, [(1.0, tiny_prompts(model))], tally)
    found = tally.agreement()
    assert (found.tokens, found.sequences) == (24, 3)
    for each in (found.sparse, *found.to_sparse, *found.to_dense):
        assert (each.r, each.low, each.high) == (pytest.approx(1, abs=1e-6),) * 3
    assert found.explained_encode == found.explained_decode == [1.0] * POINTS
    assert profile.to_sparse == pytest.approx([profile.dense] * POINTS)


@torch.no_grad()
def test_correlations_are_numpys_over_all_batches() -> None:
    dense, sparse = tiny_model(seed=1), tiny_model(0.2, seed=2)
    pair, bridge, tokens = Pair.of(OwnTarget(dense), sparse), random_bridge(POINTS, 16), tiny_prompts(dense, 20, 12)
    tally = Tally(bridge)
    measure_profile(pair, bridge, [(12.0, tokens[:12]), (8.0, tokens[12:])], tally)  # a weight for each sequence
    found, own = tally.agreement(), pair.own(bridge, tokens[:, :-1])
    losses = [token_losses(each.logits, tokens[:, 1:]).flatten().numpy() for each in own]
    assert found.sparse.r == pytest.approx(np.corrcoef(*losses)[0, 1], abs=1e-6)
    assert found.sparse.low < found.sparse.r < found.sparse.high
    for i, logits in enumerate(pair.into_dense(bridge, own[1].streams, tokens[:, :-1])):
        crossed = token_losses(logits, tokens[:, 1:]).flatten().numpy()
        assert found.to_dense[i].r == pytest.approx(np.corrcoef(losses[0], crossed)[0, 1], abs=1e-6)
    target = own[1].streams[3].flatten(0, 1)
    error = (bridge.encode(3, own[0].streams[3]).flatten(0, 1) - target).square().sum()
    share = 1 - float(error / (target - target.mean(0)).square().sum())
    assert found.explained_encode[3] == pytest.approx(share, abs=1e-5)


def test_weights_count_a_part_as_often() -> None:
    dense, sparse = tiny_model(seed=1), tiny_model(0.2, seed=2)
    pair, bridge, tokens = Pair.of(OwnTarget(dense), sparse), random_bridge(POINTS, 16), tiny_prompts(dense, 6, 10)
    found = []
    for batches in ([(3.0, tokens[:3]), (9.0, tokens[3:])], [(3.0, tokens[:3]), *[(3.0, tokens[3:])] * 3]):
        tally = Tally(bridge)
        measure_profile(pair, bridge, batches, tally)
        found.append(tally.agreement())
    assert found[0].sparse.r == pytest.approx(found[1].sparse.r, abs=1e-9)
    assert found[0].explained_decode == pytest.approx(found[1].explained_decode, abs=1e-9)
    assert torch.tensor(found[0].explained_encode).isfinite().all()

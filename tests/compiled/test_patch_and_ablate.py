"""Interventions that set activations to values: at which positions, and which shapes they refuse."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from tiny import tiny_prompts
from torch import Tensor
from twins import (
    CLOSE,
    KINDS,
    LAYERS,
    NEAR,
    assert_same_activations,
    at_last_positions,
    batch_of,
    constant_ablation,
    model_of,
    random_masks,
    twins,
)

from thinwire.model import Transformer
from thinwire.model.taps import Intervention, ablate, chain, patch, record
from thinwire.sites import Node, ResidPoint, Site, all_sites, resid_points
from thinwire.tasks import PairBatch, last_logits, task_loss


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_patched_points_are_runs_from_them(kind: str) -> None:
    """One vector for all positions, or one a position; in full passes and at the last positions."""
    model = model_of(kind)
    batch, other, shape = batch_of(model), tiny_prompts(model, 6, 20, seed=3), (6, 20, 32)
    donor = record(resid_points(model.config))
    model(other, tap=donor)
    for point in resid_points(model.config):
        for value in (donor.values[point], donor.values[point].contiguous(), donor.values[point][0, 0]):
            expected = model.unembed(model.run(value.expand(shape), point.index), batch.tokens)
            tap = patch({point: value})
            torch.testing.assert_close(model(batch.tokens, tap=tap), expected, **NEAR)
            torch.testing.assert_close(last_logits(model, batch, tap), at_last_positions(expected, batch), **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_recorded_values_are_taken_at_the_last_positions(kind: str) -> None:
    """`last_logits` and a full pass agree, for values of the whole prompt and for those of the last positions."""
    model = model_of(kind, "added")
    batch, donor, last_donor = batch_of(model), record(), record()
    other = batch_of(model)
    other = PairBatch(other.tokens.flip(0), batch.last, batch.target, batch.foil)
    model(other.tokens, tap=donor)
    last_logits(model, other, last_donor)
    keep = {site: torch.arange(x.shape[-1]) % 2 > 0 for site, x in donor.values.items()}
    values: dict[Site, Tensor] = {site: x for site, x in donor.values.items() if isinstance(site, Site)}
    full = at_last_positions(model(batch.tokens, tap=ablate(keep, values)), batch)
    ours = last_logits(model, batch, ablate(keep, values))
    torch.testing.assert_close(ours, full, **CLOSE)
    torch.testing.assert_close(task_loss(ours, batch), task_loss(full, batch), **CLOSE)
    assert not task_loss(ours, batch).isclose(task_loss(last_logits(model, batch), batch), atol=1e-3)
    torch.testing.assert_close(last_logits(model, batch, ablate(keep, last_donor.values)), full, **CLOSE)
    nodes = {Node(site, 4): x[..., 4] for site, x in values.items()}
    full = at_last_positions(model(batch.tokens, tap=patch(nodes)), batch)
    torch.testing.assert_close(last_logits(model, batch, patch(nodes)), full, **CLOSE)


class Wrong(NamedTuple):
    """An intervention whose values have a wrong shape, and the error."""

    make: Callable[[Transformer], Intervention]
    match: str


SITE, LAST_SITE = Site.of(1, "attn.q"), Site.of(LAYERS - 1, "mlp.post_act")
EVERY = {SITE: torch.zeros(32, dtype=torch.bool), LAST_SITE: torch.zeros(64, dtype=torch.bool)}
WRONG = {
    "constants": Wrong(lambda m: ablate(EVERY, {SITE: torch.ones(31), LAST_SITE: torch.ones(64)}), r"constants \[31\]"),
    "a mask": Wrong(lambda m: ablate({SITE: torch.ones(1, dtype=torch.bool)}, {SITE: torch.ones(32)}), r"mask \[1, 1"),
    "a mask by position": Wrong(
        lambda m: ablate({SITE: torch.ones(1, dtype=torch.bool)}, {SITE: torch.ones(6, 20, 32)}),
        r"The mask for 1\.attn\.q is \[1\]; give \[32\], a bool a node\.$",
    ),
    "values by sequence": Wrong(
        lambda m: ablate(EVERY, {SITE: torch.ones(6, 32), LAST_SITE: torch.ones(64)}),
        r"Values for 1\.attn\.q are \[6, 32\]; give \[32\] or \[6, positions, 32\]\.$",
    ),
    "values of too few positions": Wrong(
        lambda m: ablate(EVERY, {SITE: torch.ones(32), LAST_SITE: torch.ones(6, 19, 64)}),
        r"Values for 2\.mlp\.post_act are \[6, 19, 64\]; give \[64\] or \[6, positions, 64\]\.$",
    ),
    "values of another batch": Wrong(
        lambda m: ablate(EVERY, {SITE: torch.ones(1, 20, 32), LAST_SITE: torch.ones(64)}), r"are \[1, 20, 32\]; give"
    ),
    "a node by position alone": Wrong(
        lambda m: patch({Node(LAST_SITE, 3): torch.ones(20)}),
        r"Values for node 3 of 2\.mlp\.post_act are \[20\]; give a number or \[6, positions\]\.$",
    ),
    "a point of another width": Wrong(
        lambda m: patch({ResidPoint(2): torch.ones(31)}),
        r"Values for h_2 are \[31\]; give \[32\] or",
    ),
    "a point by position alone": Wrong(
        lambda m: patch({ResidPoint(2 * LAYERS): torch.ones(20, 32)}), r"Values for h_6 are \[20, 32\]; give"
    ),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("kind", KINDS)
def test_values_of_a_wrong_shape_are_refused(kind: str, name: str) -> None:
    """In full passes and at the last positions; nothing is broadcast."""
    model, (make, match) = model_of(kind), WRONG[name]
    batch = batch_of(model)
    for run in (lambda tap: model(batch.tokens, tap=tap), lambda tap: last_logits(model, batch, tap)):
        with pytest.raises(ValueError, match=match):
            run(make(model))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_values_recorded_at_the_last_positions_do_not_fit_a_full_pass(kind: str) -> None:
    model = model_of(kind)
    batch, seen = batch_of(model), record()
    last_logits(model, batch, seen)
    keep = {site: torch.zeros(x.shape[-1], dtype=torch.bool) for site, x in seen.values.items()}
    with pytest.raises(ValueError, match=r"Values for 2\.attn\.q are \[6, 1, 32\]; give \[32\] or"):
        model(batch.tokens, tap=ablate(keep, seen.values))


@torch.no_grad()
def test_sites_after_interventions_are_those_of_the_dense_model() -> None:
    for variant in ("plain", "added", "concatenated", "active residual"):
        dense, compiled = twins(variant)
        tokens = tiny_prompts(dense, 3, 20)
        nodes = {Node(site, 1): 0.7 for site in all_sites(dense.config)}
        by_position = {Node(Site.of(0, "attn.v"), 2): torch.arange(60.0).view(3, 20)}
        for tap in (constant_ablation(dense), patch(nodes), patch(by_position), random_masks(dense, 3)):
            expected, found = record(), record()
            logits = dense(tokens, tap=chain(tap, expected))
            torch.testing.assert_close(compiled(tokens, tap=chain(tap, found)), logits, **CLOSE)
            assert_same_activations(found.values, expected.values)
            assert not torch.allclose(logits, dense(tokens), atol=1e-2)

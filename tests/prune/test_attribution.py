"""Attribution: exact where the loss is linear, complete along the path, and first to the planted circuit."""

import planted
import pytest
import torch
from tiny import tiny_model, tiny_prompts
from torch import Tensor, nn

from thinwire.model import Transformer
from thinwire.model.taps import Tap, ablate, chain, patch
from thinwire.prune import PruneConfig, attribution
from thinwire.prune.attribution import attribution_scores, removal_effects
from thinwire.prune.masks import NodeMasks
from thinwire.sites import Node, Site, all_sites, n_nodes
from thinwire.tasks import PairBatch, last_logits, sequence_losses


def some_means(model: Transformer) -> dict[Site, Tensor]:
    """Random values to hold removed nodes at."""
    generator = torch.Generator().manual_seed(7)
    return {s: 0.3 * torch.randn(s.width(model.config), generator=generator) for s in all_sites(model.config)}


def some_pairs(model: Transformer, n: int = 4) -> PairBatch:
    """Random prompts of different lengths."""
    tokens = tiny_prompts(model, rows=2 * n)
    last = torch.arange(2 * n) % 4 + 5
    target = torch.tensor([3] * n + [8] * n)
    return PairBatch(tokens, last, target, 11 - target)


def losses(masks: NodeMasks, batch: PairBatch, *taps: Tap) -> Tensor:
    with torch.no_grad():
        return sequence_losses(last_logits(masks.model, batch, tap=chain(*taps)), batch)


def masks_of(model: Transformer, **changes: object) -> NodeMasks:
    return NodeMasks(model, some_means(model), PruneConfig().replace(**changes))


def test_effect_of_a_linear_node_is_exact() -> None:
    """No last norm, and margins of about -60, where the loss is the margin: linear in what the last layer writes."""
    model = tiny_model(density=0.5, active_fraction=1.0, bigram=False)
    model.norm = nn.Identity()  # pyright: ignore
    batch = some_pairs(model)
    batch = PairBatch(batch.tokens, batch.last, torch.full_like(batch.target, 3), torch.full_like(batch.foil, 8))
    with torch.no_grad():
        model.unembedding.bias[3] -= 60
    masks = masks_of(model)
    found, whole = removal_effects(masks, batch), losses(masks, batch)
    assert whole.min() > 30
    linear = (Site.of(1, "mlp.post_act"), Site.of(1, "mlp.resid_delta"))
    checked = 0
    for column, (node,) in enumerate(masks.units):
        if node.site in linear and node.index % 3 == 0:
            ablated = masks.means[node.site][node.index].item()
            exact = losses(masks, batch, patch({node: ablated})) - whole
            torch.testing.assert_close(found[:, column], exact, rtol=1e-3, atol=2e-5)
            checked += exact.abs().max().item() > 0.01
    assert checked > 6


@pytest.mark.parametrize("positions", ["none", "concatenated"])
def test_effect_is_the_slope_towards_the_mean(positions: str) -> None:
    """Against central differences, with AbsTopK and at every kind of site."""
    model = tiny_model(density=0.5, positions=positions).double()
    batch = some_pairs(model)
    masks = masks_of(model)
    masks.means = {site: mean.double() for site, mean in masks.means.items()}
    found, step = removal_effects(masks, batch), 1e-3  # not less: margins are float32
    for column in range(0, masks.n, 37):
        (node,) = masks.units[column]

        def moved(by: float, node: Node = node) -> Tensor:
            def towards(site: Site, x: Tensor) -> Tensor:
                if site == node.site:
                    x = x.clone()
                    x[..., node.index] += by * (masks.means[site][node.index] - x[..., node.index])
                return x

            return losses(masks, batch, towards)

        slope = (moved(step) - moved(-step)) / (2 * step)
        torch.testing.assert_close(found[:, column], slope, rtol=1e-2, atol=5e-4)


@pytest.mark.parametrize("forced", [{}, {"keep": ("1.mlp.post_act:3", "0.attn.v:1.2"), "drop": ("0.mlp.act_in:4",)}])
def test_integrated_gradients_add_up_to_the_whole_difference(forced: dict) -> None:
    model = tiny_model(density=0.5, active_fraction=1.0)
    batch, masks = some_pairs(model), masks_of(model, **forced)
    ends = torch.zeros(1, masks.n), torch.ones(1, masks.n)
    removed, kept = (
        losses(masks, batch, ablate({site: m[0] > 0 for site, m in masks.split(end).items()}, masks.means))
        for end in ends
    )
    gap = removed - kept
    assert gap.abs().max() > 0.5
    torch.testing.assert_close(removal_effects(masks, batch, 64).sum(1), gap, rtol=5e-3, atol=1e-3)
    assert (removal_effects(masks, batch, 1).sum(1) - gap).abs().max() > 0.1, "one gradient does not"


@pytest.mark.parametrize(("name", "steps"), [*((name, 1) for name in planted.PLANTED), ("attention", 8), ("mlp", 8)])
def test_planted_circuit_ranks_above_everything_else(name: str, steps: int) -> None:
    """The path of the chain is left out: on most of it the last norm hides what one of its nodes does."""
    plant = planted.PLANTED[name]()
    masks = NodeMasks(plant.model, plant.means, PruneConfig())
    scores = attribution_scores(masks, plant.planted.pairs(64, "train", 0), steps)
    assert scores.dtype == torch.float32
    assert len(scores) == n_nodes(planted.SHAPE)
    best = scores.argsort(descending=True)[: len(plant.nodes)].tolist()
    assert {masks.units[column][0] for column in best} == set(plant.nodes)


def test_scores_are_absolute_mean_effects_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(density=0.5)
    batch, masks, said = some_pairs(model, 7), masks_of(model), []
    monkeypatch.setattr(attribution, "CHUNK", 3)
    scores = attribution_scores(masks, batch, 2, lambda *news: said.append(news[:2]))
    torch.testing.assert_close(scores, removal_effects(masks, batch, 2).mean(0).abs())
    assert said == [(3, 7), (6, 7), (7, 7)]
    monkeypatch.setattr(attribution, "MOST_PASSES", 8)
    first = removal_effects(masks, batch.take(torch.arange(4)), 2)
    torch.testing.assert_close(attribution_scores(masks, batch, 2), first.mean(0).abs())


def test_tied_masks_have_the_effect_of_both_nodes() -> None:
    model = tiny_model(density=0.5)
    batch, tied, single = some_pairs(model), masks_of(model, tied_qk=True), masks_of(model)
    column = {node: i for i, (node,) in enumerate(single.units)}
    apart, together = removal_effects(single, batch), removal_effects(tied, batch)
    assert tied.n < single.n
    for i, unit in enumerate(tied.units):
        torch.testing.assert_close(together[:, i], sum(apart[:, column[node]] for node in unit))  # pyright: ignore

"""Masks over nodes, trials folded into one forward pass, and what removed nodes are ablated to."""

import planted
import pytest
import torch
from tiny import SHAPE, tiny_model, tiny_prompts
from torch import Tensor

from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.model import Transformer
from thinwire.model.taps import ablate, record
from thinwire.model.taps import ablate_masks as Hold
from thinwire.prune import PruneConfig, mean_activations
from thinwire.prune.learn import step_with_slope
from thinwire.prune.masks import NodeMasks, fold
from thinwire.prune.means import ablation_values, task_means
from thinwire.sites import Node, Site, all_sites, n_nodes
from thinwire.tasks import last_logits, margin, margin_losses

pytestmark = pytest.mark.usefixtures("in_float32")

TRIALS = 3


def masks_of(model: Transformer, **changes: object) -> NodeMasks:
    means = {site: torch.zeros(site.width(model.config)) for site in all_sites(model.config)}
    return NodeMasks(model, means, PruneConfig(**changes))  # pyright: ignore[reportArgumentType]


def test_masks_are_the_nodes_in_the_order_of_the_forward_pass() -> None:
    masks = masks_of(tiny_model())
    nodes = [node for unit in masks.units for node in unit]
    assert nodes == sorted(nodes)
    assert len(nodes) == n_nodes(SHAPE) == masks.n
    parts = masks.split(torch.arange(masks.n)[None].float())
    assert list(parts) == list(all_sites(SHAPE))
    assert all(nodes[int(unit)] == Node(site, i) for site, part in parts.items() for i, unit in enumerate(part[0]))


def test_tied_masks_decide_on_q_and_k_together() -> None:
    masks = masks_of(tiny_model(), tied_qk=True)
    heads = SHAPE.n_heads * SHAPE.d_head
    assert masks.n == n_nodes(SHAPE) - SHAPE.n_layers * heads
    hard = (torch.rand(TRIALS, masks.n, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    parts = masks.split(hard)
    for layer in range(SHAPE.n_layers):
        assert parts[Site.of(layer, "attn.q")].equal(parts[Site.of(layer, "attn.k")])
    assert sum(float(part.sum()) for part in parts.values()) == sum(
        len(unit) * float(kept) for row in hard for unit, kept in zip(masks.units, row, strict=True)
    )


def test_forced_nodes_have_no_mask() -> None:
    always, never = Node.parse("0.attn.q:1.2", SHAPE), Node.parse("1.mlp.post_act:3", SHAPE)
    masks = masks_of(tiny_model(), keep=(always.name(SHAPE),), drop=(never.name(SHAPE),))
    assert masks.n == n_nodes(SHAPE) - 2
    for hard, others in ((torch.zeros(1, masks.n), 0.0), (torch.ones(1, masks.n), 1.0)):
        parts = masks.split(hard)
        assert float(parts[always.site][0, always.index]) == 1
        assert float(parts[never.site][0, never.index]) == 0
        total = sum(float(part.sum()) for part in parts.values())
        assert total == 1 + others * masks.n


def test_forcing_refuses_nodes_that_do_not_exist_or_are_named_twice() -> None:
    with pytest.raises(UserError, match=r"7\.mlp\.post_act:0"):
        masks_of(tiny_model(), keep=("7.mlp.post_act:0",))
    with pytest.raises(UserError, match="named twice"):
        masks_of(tiny_model(), keep=("0.mlp.post_act:0",), drop=("0.mlp.post_act:0",))


def test_masks_hold_each_trial_at_its_own_ablation(plant: planted.Planted) -> None:
    batch = plant.planted.pairs(4, "train", 0)
    masks = NodeMasks(plant.model, plant.means, PruneConfig())
    hard = (torch.rand(TRIALS, masks.n, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    kept = masks.split(hard)
    folded = last_logits(plant.model, fold(batch, TRIALS), tap=Hold(kept, plant.means))
    for trial, logits in enumerate(folded.split(len(batch.tokens))):
        keep = {site: mask[trial] > 0 for site, mask in kept.items()}
        torch.testing.assert_close(logits, last_logits(plant.model, batch, tap=ablate(keep, plant.means)))


def losses_and_gradients(plant: planted.Planted, tau: Tensor) -> tuple[Tensor, Tensor]:
    tau = tau.clone().requires_grad_()
    masks = NodeMasks(plant.model, plant.means, PruneConfig())
    margins = masks.margins(step_with_slope(tau, 1.0), plant.planted.pairs(8, "train", 0))
    losses = margin_losses(margins).mean(-1)
    losses.sum().backward()
    assert tau.grad is not None
    return losses.detach(), tau.grad


def test_folded_trials_are_trials_run_one_after_another(plant: planted.Planted) -> None:
    n = NodeMasks(plant.model, plant.means, PruneConfig()).n
    tau = 0.1 + 0.3 * torch.randn(TRIALS, n, generator=torch.Generator().manual_seed(5))
    losses, gradients = losses_and_gradients(plant, tau)
    for trial in range(TRIALS):
        loss, gradient = losses_and_gradients(plant, tau[trial : trial + 1])
        torch.testing.assert_close(loss[0], losses[trial], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient[0], gradients[trial], rtol=1e-4, atol=1e-6)
    assert losses.unique().numel() == TRIALS


def test_margins_of_a_trial_come_in_the_order_of_the_batch(plant: planted.Planted) -> None:
    batch = plant.planted.pairs(8, "train", 0)
    masks = NodeMasks(plant.model, plant.means, PruneConfig())
    margins = masks.margins(torch.ones(1, masks.n), batch)
    torch.testing.assert_close(margins[0], margin(last_logits(plant.model, batch), batch))


def test_means_are_plain_averages(tiny_tokens: Tokens) -> None:
    model = tiny_model(vocab_size=300, density=0.5)
    means = mean_activations(model, tiny_tokens, n_tokens=16 * 16 * 2 + 1, seed=4)
    everything: dict[Site, list[Tensor]] = {}
    for step in range(3):
        for row in torch.from_numpy(tiny_tokens.batch(step, 4, 16, 16)):
            seen = record()
            model(row[None, :-1], tap=seen)
            for site, x in seen.values.items():
                everything.setdefault(site, []).append(x[0].double())
    assert list(means) == list(all_sites(model.config))
    for site, rows in everything.items():
        assert means[site].dtype == torch.float32
        assert not means[site].requires_grad
        torch.testing.assert_close(means[site].double(), torch.cat(rows).mean(0), rtol=1e-4, atol=1e-6)


def test_masks_of_one_keep_the_model_as_it_is() -> None:
    model: Transformer = tiny_model()
    tokens = tiny_prompts(model, rows=4)
    ones = {site: torch.ones(2, site.width(SHAPE)) for site in all_sites(SHAPE)}
    far = {site: torch.full((site.width(SHAPE),), 1e6) for site in all_sites(SHAPE)}
    assert model(tokens, tap=Hold(ones, far)).equal(model(tokens))


def test_task_means_leave_padding_out(plant: planted.Planted) -> None:
    pairs = plant.planted.pairs(6, "train", 3)
    means = task_means(plant.model, pairs)
    rows: dict[Site, list[Tensor]] = {}
    for tokens, last in zip(pairs.tokens, pairs.last.tolist(), strict=True):
        seen = record()
        plant.model(tokens[None, : last + 1], tap=seen)
        for site, x in seen.values.items():
            rows.setdefault(site, []).append(x[0].detach())
    for site, values in rows.items():
        torch.testing.assert_close(means[site], torch.cat(values).mean(0))


def test_what_removed_nodes_are_ablated_to(plant: planted.Planted) -> None:
    pairs = plant.planted.pairs(4, "train", 0)
    assert ablation_values(plant.model, plant.means, pairs, "mean") == plant.means
    zero = ablation_values(plant.model, plant.means, pairs, "zero")
    assert all(not value.any() and value.shape == plant.means[site].shape for site, value in zero.items())
    of_task = ablation_values(plant.model, plant.means, pairs, "task_mean")
    assert any(not of_task[site].equal(plant.means[site]) for site in of_task)

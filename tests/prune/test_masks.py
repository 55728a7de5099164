"""Masks, trials folded into one forward pass, the pressure, and mean activations."""

from unittest import mock

import planted
import pytest
import torch
from tiny import SHAPE, tiny_model, tiny_prompts
from torch import Tensor

from thinwire.data import Tokens
from thinwire.model import Transformer
from thinwire.model.taps import ablate, record
from thinwire.progress import silent
from thinwire.prune import PruneConfig, mean_activations
from thinwire.prune.masks import NodeMasks, fold, mask_tap
from thinwire.prune.search import Pressure, clip_rows_, rate_at, train_masks, trial_losses
from thinwire.sites import Node, Site, all_sites, n_nodes
from thinwire.tasks import last_logits, task_loss

TRIALS = 3


@pytest.fixture(autouse=True)
def in_float32():
    """Masks are otherwise trained in bfloat16 where the processor computes it natively."""
    with mock.patch("torch.cpu._is_avx512_bf16_supported", return_value=False):
        yield


@pytest.fixture(scope="module")
def plant() -> planted.Planted:
    return planted.chain()


def test_columns_are_the_nodes_in_the_order_of_the_forward_pass() -> None:
    masks = NodeMasks(SHAPE, TRIALS, bias=0.1, scale=0.5, seed=0)
    nodes = masks.nodes()
    assert nodes == sorted(nodes)
    assert len(nodes) == n_nodes(SHAPE) == masks.tau.shape[1]
    parts = masks.split(torch.arange(len(nodes)))
    assert list(parts) == list(all_sites(SHAPE))
    assert all(nodes[int(column)] == Node(site, i) for site, part in parts.items() for i, column in enumerate(part))


def test_initial_parameters_have_the_mean_and_spread_asked_for() -> None:
    tau = NodeMasks(SHAPE, 50, bias=0.1, scale=0.5, seed=0).tau.detach()
    assert tau.mean().item() == pytest.approx(0.1, abs=0.02)
    assert tau.std().item() == pytest.approx(0.5, abs=0.02)
    assert tau.equal(NodeMasks(SHAPE, 50, bias=0.1, scale=0.5, seed=0).tau)
    assert not tau.equal(NodeMasks(SHAPE, 50, bias=0.1, scale=0.5, seed=1).tau)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.3])
def test_step_forward_and_slope_of_a_sigmoid_backward(temperature: float) -> None:
    masks = NodeMasks(SHAPE, TRIALS, bias=0.0, scale=0.5, seed=0)
    hard = masks.masks(temperature)
    assert hard.equal((masks.tau > 0).float())
    hard.sum().backward()
    soft = torch.sigmoid(masks.tau.detach() / temperature)
    assert masks.tau.grad is not None
    torch.testing.assert_close(masks.tau.grad, soft * (1 - soft) / temperature)


def test_clamp() -> None:
    masks = NodeMasks(SHAPE, TRIALS, bias=0.0, scale=3.0, seed=0)
    before = masks.tau.detach().clone()
    masks.clamp_()
    assert masks.tau.detach().equal(before.clamp(-1, 1))


def test_mask_tap_holds_each_trial_at_its_own_ablation(plant: planted.Planted) -> None:
    batch = plant.planted.pairs(4, "train", 0)
    masks = NodeMasks(planted.SHAPE, TRIALS, bias=0.0, scale=0.5, seed=0)
    kept = masks.split((masks.tau > 0).float())
    folded = last_logits(plant.model, fold(batch, TRIALS), tap=mask_tap(kept, plant.means))
    for trial, logits in enumerate(folded.split(len(batch.tokens))):
        keep = {site: mask[trial] > 0 for site, mask in kept.items()}
        torch.testing.assert_close(logits, last_logits(plant.model, batch, tap=ablate(keep, plant.means)))


def losses_and_gradients(plant: planted.Planted, tau: Tensor) -> tuple[Tensor, Tensor]:
    masks = NodeMasks(planted.SHAPE, len(tau), 0.0, 0.0, 0)
    with torch.no_grad():
        masks.tau.copy_(tau)
    hard = masks.split(masks.masks(1.0))
    losses = trial_losses(plant.model, hard, plant.means, plant.planted.pairs(8, "train", 0))
    losses.sum().backward()
    assert masks.tau.grad is not None
    return losses.detach(), masks.tau.grad


def test_folded_trials_are_trials_run_one_after_another(plant: planted.Planted) -> None:
    tau = NodeMasks(planted.SHAPE, TRIALS, bias=0.1, scale=0.3, seed=5).tau.detach()
    losses, gradients = losses_and_gradients(plant, tau)
    for trial in range(TRIALS):
        loss, gradient = losses_and_gradients(plant, tau[trial : trial + 1])
        torch.testing.assert_close(loss[0], losses[trial], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient[0], gradients[trial], rtol=1e-4, atol=1e-6)
    assert losses.unique().numel() == TRIALS


def test_loss_of_a_trial_is_the_task_loss(plant: planted.Planted) -> None:
    batch = plant.planted.pairs(8, "train", 0)
    everything = {site: torch.ones(1, site.width(planted.SHAPE)) for site in all_sites(planted.SHAPE)}
    loss = trial_losses(plant.model, everything, plant.means, batch)
    torch.testing.assert_close(loss[0], task_loss(last_logits(plant.model, batch), batch))


def test_trials_do_not_touch_each_other_in_training(plant: planted.Planted) -> None:
    """A trial among three comes out as the same trial alone."""
    pairs = plant.planted.pairs(32, "train", 0)
    config = PruneConfig(steps=6, batch_pairs=8, trials=TRIALS, gradient_clip=0.01)
    together = train_masks(plant.model, plant.means, pairs, config, silent).tau.detach()
    start = NodeMasks(planted.SHAPE, TRIALS, config.init_noise_bias, config.init_noise_scale, config.seed).tau.detach()
    for trial in range(TRIALS):
        alone = NodeMasks(planted.SHAPE, 1, 0.0, 0.0, 0)
        with torch.no_grad():
            alone.tau.copy_(start[trial : trial + 1])
        with mock.patch("thinwire.prune.search.NodeMasks", return_value=alone):
            train_masks(plant.model, plant.means, pairs, config.replace(trials=1), silent)
        torch.testing.assert_close(alone.tau.detach()[0], together[trial], rtol=1e-4, atol=1e-4)


def test_controlled_pressure_by_hand() -> None:
    """The first loss counts in full, later ones by a tenth; the pressure turns at aim·target = 0.1."""
    pressure = Pressure(PruneConfig(trials=2, aim=0.5, target_loss=0.2, k_coef=1.0, k_coef_up=2, k_coef_down=0.25))
    pressure.update(torch.tensor([0.05, 0.5]))
    assert pressure.value.tolist() == [2, 1], "never below k_coef"
    assert pressure.push.tolist() == [2, -1], "a trial above its target of 0.2 is pushed to bring nodes back"
    pressure.update(torch.tensor([0.3, 0.0]))  # running losses 0.075 and 0.45
    assert pressure.value.tolist() == [4, 1]
    pressure.update(torch.tensor([0.9, 0.0]))  # 0.1575 and 0.405
    assert pressure.value.tolist() == [1, 1]
    assert pressure.push.tolist() == [1, -1]
    for _ in range(20):
        pressure.update(torch.tensor([0.0, 0.0]))
    assert (pressure.push > 1).all()


def test_fixed_pressure_stays() -> None:
    pressure = Pressure(PruneConfig(trials=2, sparsity="fixed", k_coef=0.5))
    pressure.update(torch.tensor([0.0, 9.0]))
    assert pressure.push.tolist() == [0.5, 0.5]


def test_rows_are_clipped_one_by_one() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3, 2))
    parameter.grad = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    clip_rows_(parameter, 1.0)
    torch.testing.assert_close(parameter.grad, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


def test_rate_rises_and_falls_linearly() -> None:
    config = PruneConfig(steps=100, learning_rate=1.0, warmup=0.1)
    assert [rate_at(step, config) for step in (0, 4, 9, 50, 99)] == pytest.approx([0.1, 0.48, 0.91, 0.5, 0.01])
    assert rate_at(0, config.replace(warmup=0.0)) == 1


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
    assert model(tokens, tap=mask_tap(ones, far)).equal(model(tokens))

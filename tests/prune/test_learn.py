"""Training of masks: the step and its slope, the pressure, trials that do not touch each other, collapsed ones."""

from unittest import mock

import planted
import pytest
import torch
from torch import Tensor

from thinwire.prune import PruneConfig
from thinwire.prune.config import Point
from thinwire.prune.learn import Pressure, initial, learn, step_with_slope
from thinwire.prune.masks import NodeMasks
from thinwire.tasks import PairBatch

pytestmark = pytest.mark.usefixtures("in_float32")

TRIALS = 3


@pytest.fixture(scope="module")
def pairs(plant: planted.Planted) -> PairBatch:
    return plant.planted.pairs(32, "train", 0)


def test_initial_parameters_have_the_mean_and_spread_of_each_trial() -> None:
    points = [Point(init_noise_bias=0.1, init_noise_scale=0.5), Point(init_noise_bias=-0.3, init_noise_scale=0.01)]
    rows = initial(points, 20_000, seed=0)
    for point, row in zip(points, rows, strict=True):
        assert row.mean().item() == pytest.approx(point.init_noise_bias, abs=0.02)
        assert row.std().item() == pytest.approx(point.init_noise_scale, rel=0.02)
    assert rows[0].equal(initial(points, 20_000, seed=0)[0])
    assert not rows[0].equal(initial(points, 20_000, seed=1)[0])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.3])
def test_step_forward_and_slope_of_a_sigmoid_backward(temperature: float) -> None:
    tau = torch.linspace(-1, 1, 20).requires_grad_()
    hard = step_with_slope(tau, temperature)
    assert hard.equal((tau > 0).float())
    hard.sum().backward()
    soft = torch.sigmoid(tau.detach() / temperature)
    assert tau.grad is not None
    torch.testing.assert_close(tau.grad, soft * (1 - soft) / temperature)


def test_trials_do_not_touch_each_other(plant: planted.Planted, pairs: PairBatch) -> None:
    """A trial among three with other hyper-parameters comes out as the same trial alone."""
    config = PruneConfig(steps=6, batch_pairs=8, gradient_clip=0.01, restarts=0)
    points = [Point(learning_rate=0.02 * (i + 1), k_coef=1e-3 * (i + 1), heaviside_temp=1 + i) for i in range(TRIALS)]
    masks = NodeMasks(plant.model, plant.means, config)
    together = learn(masks, pairs, config, points, seed=0).tau
    starts = initial(points, masks.n, seed=0)
    for trial in range(TRIALS):
        start = torch.nn.Parameter(starts[trial].detach().clone())
        with mock.patch("thinwire.prune.learn.initial", return_value=[start]):
            alone = learn(masks, pairs, config, points[trial : trial + 1], seed=0).tau
        torch.testing.assert_close(alone[0], together[trial], rtol=1e-4, atol=1e-4)
    assert (together.abs() <= 1).all()


def test_controlled_pressure_by_hand() -> None:
    """The first loss counts in full, later ones by a tenth; the pressure falls above hold·target = 0.1."""
    config = PruneConfig(hold=0.5, target_loss=0.2, k_coef_up=2, k_coef_down=0.25)
    pressure = Pressure(config, [Point(k_coef=1.0)] * 2, whole=0.01)
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


def test_controlled_pressure_asks_for_no_less_than_the_whole_model_has() -> None:
    pressure = Pressure(PruneConfig(hold=0.5, target_loss=0.2), [Point()], whole=0.3)
    assert pressure.setpoint == pytest.approx(0.33)
    assert pressure.reversal == pytest.approx(0.43)
    pressure.update(torch.tensor([0.32]))
    assert pressure.push.item() > PruneConfig().k_coef
    pressure.update(torch.tensor([5.0]))
    assert pressure.push.item() < 0


def test_fixed_pressure_stays() -> None:
    pressure = Pressure(PruneConfig(sparsity="fixed"), [Point(k_coef=0.5), Point(k_coef=0.25)], whole=0.0)
    pressure.update(torch.tensor([0.0, 9.0]))
    assert pressure.push.tolist() == [0.5, 0.25]


def test_masks_that_may_all_go_have_not_collapsed(plant: planted.Planted, pairs: PairBatch) -> None:
    names = tuple(node.name(planted.SHAPE) for node in plant.nodes)
    config = PruneConfig(steps=40, batch_pairs=8, sparsity="fixed", restarts=0, keep=names)
    masks = NodeMasks(plant.model, plant.means, config)
    learned = learn(masks, pairs, config, [Point(k_coef=10.0, learning_rate=0.02)], seed=0)
    assert not (learned.tau > 0).any()
    assert not learned.collapsed.any(), "what is forced in does the task"


def test_a_trial_under_crushing_pressure_collapses(plant: planted.Planted, pairs: PairBatch) -> None:
    config = PruneConfig(steps=40, batch_pairs=8, sparsity="fixed", restarts=0)
    masks = NodeMasks(plant.model, plant.means, config)
    learned = learn(masks, pairs, config, [Point(k_coef=10.0), Point(k_coef=1e-10)], seed=0)
    assert learned.collapsed.tolist() == [True, False]
    assert learned.losses[0] > 0.5 > learned.losses[1]


def test_a_collapsed_trial_is_trained_again_under_a_tenth_of_the_pressure(
    plant: planted.Planted, pairs: PairBatch
) -> None:
    config = PruneConfig(steps=40, batch_pairs=8, sparsity="fixed", restarts=7)
    masks = NodeMasks(plant.model, plant.means, config)
    said: list[str] = []
    points = [Point(k_coef=10.0), Point(k_coef=1e-10)]
    learned = learn(masks, pairs, config, points, 0, lambda done, total, status: said.append(status))
    assert learned.collapsed.tolist() == [False, False]
    restarts = sum("collapsed" in status for status in said)
    assert 1 <= restarts <= config.restarts
    again = learn(masks, pairs, config.replace(restarts=restarts - 1), points, seed=0)
    assert again.collapsed.tolist() == [True, False], "and no sooner than needed"
    assert again.tau[1].equal(learned.tau[1]), "the other trial stays as it was"


def test_restarts_differ_from_the_first_attempt(plant: planted.Planted, pairs: PairBatch) -> None:
    seen: list[Tensor] = []

    class Nothing:
        n = 5

        def margins(self, hard: Tensor, batch: PairBatch) -> Tensor:
            seen.append(hard.detach().clone())
            margins = torch.where(hard.all(-1), 5.0, -5.0) + 0 * hard.sum(-1)
            return margins[:, None].expand(-1, len(batch.tokens))

    config = PruneConfig(steps=1, batch_pairs=2, restarts=1, calibrated=False)
    learned = learn(Nothing(), pairs, config, [Point(init_noise_bias=0.0, init_noise_scale=1.0)], seed=0)
    assert learned.collapsed.all()
    starts = [hard for hard in seen if hard.any() and not hard.all()]
    assert len(starts) == 2
    assert not starts[0].equal(starts[1])

"""L1, group lasso and frozen supports: proximal steps against what they minimize, steering, and masks."""

import math
from collections.abc import Callable

import pytest
import torch
from cases import case
from tiny import synthetic_batch, tiny_model, tiny_run
from torch import Tensor

from thinwire.errors import UserError
from thinwire.model.weights import count_nonzeros, count_sparse_entries, floor_dim, sparse_parameters
from thinwire.train.sparsity.base import Sparsifier
from thinwire.train.sparsity.group_lasso import GroupLasso
from thinwire.train.sparsity.l1 import L1
from thinwire.train.sparsity.steering import LOWEST, RATE, START, Steering
from thinwire.train.step import new_state, train_step


def lasso(weight: Tensor) -> Tensor:
    return weight.abs().sum()


def grouped(channels: Callable[[Tensor], list[Tensor]], fraction: float) -> Callable[[Tensor], Tensor]:
    """The penalty of group lasso, one channel at a time."""

    def penalty(weight: Tensor) -> Tensor:
        groups = sum((g.norm() * len(g) ** 0.5 for g in channels(weight)), torch.zeros(()))
        return (1 - fraction) * groups + fraction * lasso(weight)

    return penalty


def rows(weight: Tensor) -> list[Tensor]:
    return list(weight)


def columns(weight: Tensor) -> list[Tensor]:
    return list(weight.T)


def built(cls: type[Sparsifier], **options: float) -> Sparsifier:
    sparsifier = {L1: "l1", GroupLasso: "group_lasso"}[cls]
    return cls(tiny_model(), tiny_run(sparsity=sparsifier, sparsity_options=options, floor=0))


@pytest.mark.parametrize(
    ("sparsifier", "name", "penalty"),
    [
        (built(L1), "blocks.0.attn.w_q.weight", lasso),
        *(
            (built(GroupLasso, l1_fraction=fraction), name, grouped(channels, fraction))
            for fraction in (0.0, 0.3, 1.0)
            for name, channels in (("blocks.0.attn.w_v.weight", rows), ("blocks.0.attn.w_o.weight", columns))
        ),
    ],
)
def test_shrinking_is_the_proximal_step(sparsifier: L1 | GroupLasso, name: str, penalty: Callable) -> None:
    """x = shrunk(w) minimizes |x - w|²/2 + threshold · penalty(x), which is convex: no step goes down."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    weight[2] *= 0.1
    weight[:, 1] *= 0.1
    threshold = 0.3

    def cost(x: Tensor) -> float:
        return ((x - weight).square().sum() / 2 + threshold * penalty(x)).item()

    found = sparsifier.shrunk(name, weight, torch.tensor(threshold))
    assert 0 < int(found.count_nonzero()) < weight.numel()
    for _ in range(300):
        direction = torch.randn(6, 4, generator=generator, dtype=torch.float64)
        for size in (1e-4, 1e-2, 0.3):
            assert cost(found + size * direction) > cost(found)
            assert cost(found + size * direction * (found != 0)) > cost(found)
            assert cost(found + size * direction * (found == 0)) >= cost(found)


def test_groups_run_along_rows_or_columns() -> None:
    sparsifier = built(GroupLasso, l1_fraction=0.3)
    assert isinstance(sparsifier, GroupLasso)
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    shrunk = {
        name: sparsifier.shrunk(name, weight, torch.tensor(0.3))
        for name, p in sparse_parameters(tiny_model())
        if p.ndim == 2
    }
    along_rows, along_columns = shrunk["blocks.0.attn.w_v.weight"], shrunk["blocks.0.attn.w_o.weight"]
    assert not torch.equal(along_rows, along_columns)
    for name, found in shrunk.items():
        assert torch.equal(found, along_columns if name.endswith(("w_o.weight", "w_out.weight")) else along_rows), name


def test_whole_channels_vanish_without_l1() -> None:
    sparsifier, model = built(GroupLasso, l1_fraction=0.0), tiny_model()
    assert isinstance(sparsifier, GroupLasso)
    for name, parameter in sparse_parameters(model):
        if parameter.ndim == 2:
            dim = 0 if floor_dim(name) == 0 else 1
            norms = parameter.detach().norm(dim=dim)
            threshold = norms.median() / parameter.shape[dim] ** 0.5
            kept = (sparsifier.shrunk(name, parameter.detach(), threshold) != 0).sum(dim)
            assert set(kept.tolist()) == {0, parameter.shape[dim]}, name
            assert torch.equal(kept > 0, norms > norms.median()), name


def test_bias_is_pressed_entry_by_entry() -> None:
    sparsifier = built(GroupLasso, l1_fraction=0.4)
    assert isinstance(sparsifier, GroupLasso)
    found = sparsifier.shrunk("blocks.0.mlp.w_in.bias", torch.tensor([0.5, -0.1, -2.0]), torch.tensor(0.2))
    torch.testing.assert_close(found, torch.tensor([0.3, 0.0, -1.8]))


def test_a_step_takes_the_rate_times_the_pressure() -> None:
    model, config = tiny_model(), tiny_run(sparsity="l1", floor=0, l0_factor="off", decay="none", warmup=0)
    sparsifier = L1(model, config)
    sparsifier.steering.pressure.fill_(0.4)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sparsifier.after_step(model, 3)
    threshold = config.learning_rate * 0.4
    sparse = dict(sparse_parameters(model))
    for name, old in before.items():
        expected = old.sign() * (old.abs() - threshold).clamp(min=0) if name in sparse else old
        torch.testing.assert_close(model.get_parameter(name), expected, msg=name)


def test_steering_by_hand() -> None:
    steering = Steering(steps=1000, highest=2.0, gain=3.0)
    start, lowest = START * 2.0, LOWEST * 2.0
    assert (steering.level.item(), steering.pressure.item()) == (pytest.approx(start), 0)
    steering.follow(torch.tensor(120.0), 100)
    level = start * math.exp(RATE / 1000 * math.log(1.2))
    assert steering.level.item() == pytest.approx(level)
    assert steering.pressure.item() == pytest.approx(level * (1 + 3 * math.log(1.2)))
    steering.follow(torch.tensor(1e6), 100)
    level *= math.exp(RATE / 1000 * 0.5)
    assert steering.pressure.item() == pytest.approx(level * 2.5)
    for _ in range(1000):
        steering.follow(torch.tensor(1e6), 100)
    assert steering.level.item() == pytest.approx(2.0)
    for _ in range(1000):
        steering.follow(torch.tensor(0.0), 100)
    assert steering.level.item() == pytest.approx(lowest)
    assert steering.pressure.item() == pytest.approx(lowest * -0.5)


def test_steering_finds_the_pressure_of_a_threshold() -> None:
    """Count = numbers above the pressure: it is to follow a budget that falls, whatever the scale of the numbers."""
    for scale in [0.02, 0.3]:
        with case(scale):
            numbers = torch.randn(10_000, generator=torch.Generator().manual_seed(0)).abs() * scale
            steering = Steering(steps=600, highest=1.0, gain=0.0)
            for step in range(600):
                budget = round(10_000 * (1 - 0.9 * min(step / 300, 1)))
                steering.follow((numbers > steering.pressure).sum(), budget)
            assert int((numbers > steering.pressure).sum()) == pytest.approx(1000, rel=0.03)


@pytest.mark.parametrize("sparsifier", ["l1", "group_lasso"])
def test_pressure_brings_the_density_to_its_target(sparsifier: str) -> None:
    """Before the last step, that is, which cuts off the rest."""
    model = tiny_run().model.replace(n_layers=1)
    config = tiny_run(sparsity=sparsifier, floor=0, steps=120, density=1 / 8, learning_rate=0.1, model=model)
    state = new_state(config)
    for step in range(config.steps - 1):
        train_step(state, synthetic_batch(step, config), config)
    allowed = state.objective.sparsifier.total_budget(state.model, config.steps)
    assert count_nonzeros(state.model) == pytest.approx(allowed, rel=0.15)
    train_step(state, synthetic_batch(config.steps, config), config)
    assert count_nonzeros(state.model) <= allowed


def test_frozen_support_is_that_of_the_start() -> None:
    start = tiny_model(density=1 / 8, vocab_size=300)
    config = tiny_run(sparsity="frozen", floor=0, density=0.13, learning_rate=0.1)
    state = new_state(config, start)
    density = count_nonzeros(start) / count_sparse_entries(start.config)
    for step in range(8):
        done = train_step(state, synthetic_batch(step, config), config)
        assert done.density == pytest.approx(density)
        rising = min(1, (step + 1) / 2) * (1 - step / 20)  # warm-up and decay, and no factor for the density
        assert done.learning_rate == pytest.approx(0.1 * rising)
    for name, parameter in sparse_parameters(start):
        tuned = state.model.get_parameter(name)
        assert torch.equal(tuned != 0, parameter != 0), name
        assert not torch.equal(tuned, parameter), name


def test_frozen_leaves_dense_biases_free() -> None:
    start = tiny_model(density=1 / 8, vocab_size=300)
    with torch.no_grad():
        for name, parameter in start.named_parameters():
            if name.endswith(".bias"):
                parameter.zero_()
    config = tiny_run(sparsity="frozen", floor=0, density=1 / 8, learning_rate=0.1, sparse_biases=False)
    state = new_state(config, start)
    train_step(state, synthetic_batch(0, config), config)
    assert int(state.model.get_parameter("unembedding.bias").count_nonzero()) > 0


def test_frozen_needs_a_start_that_is_sparse_enough() -> None:
    config = tiny_run(sparsity="frozen", floor=0, density=1 / 8)
    with pytest.raises(UserError, match=r"The sparsifier frozen needs a model to start from; give one with --start\."):
        new_state(config)
    dense = tiny_model(vocab_size=300)
    with pytest.raises(UserError, match=rf"has {count_nonzeros(dense)} nonzeros and density 0.125 allows \d+; start"):
        new_state(config, dense)
    new_state(config, tiny_model(density=1 / 8, vocab_size=300))
    new_state(config.replace(density=1.0), dense)

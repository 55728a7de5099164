"""HardConcrete gates: their distribution, gradients, noise and optimizer, and that training closes them on schedule."""

import math

import pytest
import torch
from tiny import synthetic_batch, tiny_model, tiny_run

from thinwire.model.weights import count_nonzeros, count_sparse_entries, sparse_parameters
from thinwire.train.sparsity.hardconcrete import HardConcrete, gated
from thinwire.train.step import new_state, train_step

NAME = "blocks.0.mlp.w_in.weight"
KEY = "blocks/0/mlp/w_in/weight"


def built(log_alpha: float, **options: float) -> HardConcrete:
    model = tiny_model(d_model=64, vocab_size=300)
    sparsifier = HardConcrete(model, tiny_run(sparsity="hardconcrete", sparsity_options=options, floor=0))
    with torch.no_grad():
        for gates in sparsifier.log_alpha.values():
            gates.fill_(log_alpha)
    return sparsifier


@pytest.mark.parametrize("log_alpha", [-1.0, 0.5])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.4, "stretch": 0.3}])
def test_gates_have_the_distribution_of_the_paper(log_alpha: float, options: dict[str, float]) -> None:
    """The probabilities of 0 and of 1, and the distribution in between, over 8,192 gates."""
    sparsifier = built(log_alpha, **options)
    temperature, stretch = options.get("temperature", 2 / 3), options.get("stretch", 0.1)
    gates = sparsifier.gate(NAME, sparsifier.noise()).detach()
    assert gates.numel() == 8192

    def at_most(z: float) -> float:
        """P(s̄ ≤ z) = sigmoid(temperature · logit(s) - log_alpha) for s = (z + stretch) / (1 + 2 stretch)."""
        s = (z + stretch) / (1 + 2 * stretch)
        return 1 / (1 + math.exp(log_alpha - temperature * math.log(s / (1 - s))))

    assert (gates == 0).double().mean().item() == pytest.approx(at_most(0), abs=0.02)
    assert (gates == 1).double().mean().item() == pytest.approx(1 - at_most(1), abs=0.02)
    for z in (0.2, 0.5, 0.9):
        assert (gates <= z).double().mean().item() == pytest.approx(at_most(z), abs=0.02)
    entries = sum(each.numel() for each in sparsifier.log_alpha.values())
    assert sparsifier.expected_l0().item() == pytest.approx(entries * (1 - at_most(0)), rel=1e-4)


def test_gates_of_evaluation() -> None:
    """sigmoid(0) · 1.2 - 0.1 = 0.5; shut at and below log(0.1 / 1.1), open from log(1.1 / 0.1)."""
    edge = math.log(11)
    for log_alpha, gate in ((0.0, 0.5), (-edge - 0.01, 0.0), (edge + 0.01, 1.0), (-edge + 0.5, 0.056)):
        found = built(log_alpha).gate(NAME).unique()
        torch.testing.assert_close(found, torch.tensor([gate]), rtol=0, atol=5e-3)


def test_gradient_of_a_gated_weight() -> None:
    weight = torch.tensor([2.0, -3.0, 4.0], requires_grad=True)
    gate = torch.tensor([0.0, 0.25, 1.0], requires_grad=True)
    product = gated(weight, gate)
    assert product.tolist() == [0.0, -0.75, 4.0]
    product.backward(torch.tensor([10.0, 20.0, 30.0]))
    assert weight.grad is not None
    assert gate.grad is not None
    assert weight.grad.tolist() == [0.0, 20.0, 30.0]
    assert gate.grad.tolist() == [20.0, -60.0, 120.0]


def test_gradient_of_log_alpha_is_the_slope() -> None:
    sparsifier = built(0.3).double()
    loss = sparsifier.gate(NAME, sparsifier.noise()).sum() + sparsifier.expected_l0()
    loss.backward()
    gradient = sparsifier.log_alpha[KEY].grad
    assert gradient is not None

    def at(shift: float) -> float:
        with torch.no_grad():
            sparsifier.log_alpha[KEY].fill_(0.3 + shift)
            return (sparsifier.gate(NAME, sparsifier.noise()).sum() + sparsifier.expected_l0()).item()

    assert gradient.sum().item() == pytest.approx((at(1e-6) - at(-1e-6)) / 2e-6, rel=1e-3)


def test_noise_is_that_of_the_seed_and_the_step() -> None:
    def sampled(sparsifier: HardConcrete) -> torch.Tensor:
        torch.rand(1)
        return sparsifier.gate(NAME, sparsifier.noise()).detach()

    one, two = built(0.0), built(0.0)
    assert torch.equal(sampled(one), sampled(two))
    model, state = tiny_model(d_model=64, vocab_size=300), torch.get_rng_state()
    one.effective(model)
    assert torch.equal(torch.get_rng_state(), state)
    two.updates.fill_(1)
    assert not torch.equal(sampled(one), sampled(two))
    two.updates.fill_(0)
    two.config = two.config.replace(seed=1)
    assert not torch.equal(sampled(one), sampled(two))


def test_gates_start_almost_surely_open_and_are_materialized_without_noise() -> None:
    config = tiny_run(sparsity="hardconcrete", floor=0)
    model = tiny_model(vocab_size=300)
    sparsifier = HardConcrete(model, config)
    assert sparsifier.expected_l0().item() > 0.985 * count_sparse_entries(model.config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sparsifier.materialize(model, 5)
    for name, old in before.items():
        assert torch.equal(model.get_parameter(name), old), name  # sigmoid(3) · 1.2 - 0.1 is above 1


def test_gates_have_an_optimizer_group_of_their_own() -> None:
    """The first update moves each by the rate against its gradient; the norm of the gradient leaves them out."""
    config = tiny_run(sparsity="hardconcrete", floor=0, warmup=0, sparsity_options={"travel": 4, "initial": 0})
    state, twin = new_state(config), new_state(config)
    batch = synthetic_batch(0, config)
    twin.objective(batch).total.backward()
    raw = [p.grad for p in twin.model.parameters() if p.grad is not None]
    rms = (sum(g.double().square().sum() for g in raw) / sum(g.numel() for g in raw)) ** 0.5
    done = train_step(state, batch, config)
    assert done.gradient_rms == pytest.approx(float(rms), rel=1e-4)
    assert state.optimizer.param_groups[-1]["lr"] == pytest.approx(4 / 20)
    assert state.optimizer.param_groups[0]["lr"] == pytest.approx(done.learning_rate) == 0.05 * config.density**0.5
    for key, gates in state.objective.sparsifier.named_parameters():
        gradient = twin.objective.sparsifier.get_parameter(key).grad
        assert gradient is not None
        clear = gradient.abs() > 1e-6
        torch.testing.assert_close(gates[clear], -0.2 * gradient[clear].sign(), rtol=0.02, atol=0, msg=key)


def test_closed_weight_has_no_gradient_and_opens_none() -> None:
    config = tiny_run(sparsity="hardconcrete", floor=0, weight_decay=0.0, learning_rate=0.1)
    state = new_state(config)
    sparsifier = state.objective.sparsifier
    assert isinstance(sparsifier, HardConcrete)
    with torch.no_grad():
        sparsifier.log_alpha[KEY].fill_(-30.0)
    before = state.model.get_parameter(NAME).detach().clone()
    train_step(state, synthetic_batch(0, config), config)
    assert torch.equal(state.model.get_parameter(NAME), before)
    with state.objective.materialized(1) as model:
        assert int(model.get_parameter(NAME).count_nonzero()) == 0
        assert count_nonzeros(model) > 0


def test_training_closes_gates_on_schedule() -> None:
    """The loss falls, the expected density arrives near its target, and gates end up decided."""
    model = tiny_run().model.replace(n_layers=1)
    options = {"sparsity": "hardconcrete", "floor": 0, "anneal_stop": 0.4, "model": model}
    config = tiny_run(steps=200, density=1 / 8, learning_rate=0.1, **options)
    state, losses = new_state(config), []
    sparsifier = state.objective.sparsifier
    assert isinstance(sparsifier, HardConcrete)
    for step in range(config.steps):
        losses.append(train_step(state, synthetic_batch(step, config), config).loss)
    assert sum(losses[-20:]) / 20 < losses[0] - 2
    allowed = sparsifier.total_budget(state.model, config.steps)
    assert sparsifier.expected_l0().item() == pytest.approx(allowed, rel=0.1)
    gates = torch.cat([sparsifier.gate(name).flatten() for name, _ in sparse_parameters(state.model)])
    assert ((gates == 0) | (gates == 1)).double().mean().item() > 0.9
    sparsifier.materialize(state.model, config.steps)
    assert 0.85 * allowed < count_nonzeros(state.model) <= allowed

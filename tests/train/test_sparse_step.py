"""Steps on the support: against exact steps with masked gradients, across resumption, and where they are refused."""

import math
import os
import signal
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from tiny import sparse_run, synthetic_batch, tiny_run
from torch import Tensor

from thinwire.data import Tokens
from thinwire.model import Transformer
from thinwire.model.weights import sparse_parameters
from thinwire.sites import Site
from thinwire.train import Monitoring, TrainConfig, read_metrics, train
from thinwire.train.sparse_step import NEVER_ZERO, Support, computes_sparsely, mean_share
from thinwire.train.stats import support, turnover
from thinwire.train.step import State, new_state, train_step

ANNEALED = 8
"""Step from which on the run is annealed; the first exact step of that stage."""


MODEL = tiny_run().model
WIDER = MODEL.replace(d_model=64)


def after(config: TrainConfig, steps: int) -> State:
    """The state after so many steps on synthetic batches."""
    state = new_state(config)
    for step in range(steps):
        train_step(state, synthetic_batch(step, config), config)
    return state


def moments(state: State, name: str) -> tuple[Tensor, Tensor]:
    found = state.optimizer.state[state.model.get_parameter(name)]
    return found["exp_avg"], found["exp_avg_sq"]


@pytest.mark.parametrize(
    "changes",
    [{"model": WIDER}, {"floor": 0, "model": WIDER.replace(sink=True, positions="concatenated")}],
    ids=["recipe", "positions and sinks"],
)
def test_exact_steps_are_those_of_the_exact_recipe(changes: dict[str, object]) -> None:
    """Bit for bit until the anneal is over. Then every step, from the same state, differs only by rounding.

    AbsTopK passes gradients to zeros where a token has fewer than k nonzeros. So where a sum is zero in one order of
    summation and not in the other, gradients differ by more; such steps are not compared.
    """
    sparse, dense = sparse_run(support_every=1, **changes), sparse_run(compute="dense", **changes)
    ours, exact = new_state(sparse), new_state(dense)
    compared = 0
    for step in range(sparse.steps):
        batch = synthetic_batch(step, sparse)
        same = step >= ANNEALED
        if same:
            exact.objective.load_state_dict(ours.objective.state_dict())
            exact.optimizer.load_state_dict(deepcopy(ours.optimizer.state_dict()))
            compiled = Support.of(ours.model, ours.optimizer, sparse).exact_model
            same = all(map(torch.equal, zeros(exact.model, batch), zeros(compiled, batch)))
        found, expected = train_step(ours, batch, sparse), train_step(exact, batch, dense)
        assert (ours.support_share is not None) == (step >= ANNEALED)
        if step < ANNEALED:
            assert found == expected
        else:
            assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        if same:
            compared += 1
            assert found.gradient_rms == pytest.approx(expected.gradient_rms, rel=1e-4)
            for name, value in ours.model.state_dict().items():
                torch.testing.assert_close(value, exact.model.get_parameter(name), rtol=1e-4, atol=1e-5)
                for mine, whole in zip(moments(ours, name), moments(exact, name), strict=True):
                    torch.testing.assert_close(mine, whole, rtol=1e-4, atol=1e-5)
    assert compared > 8, compared


@torch.no_grad()
def zeros(model: Transformer, batch: Tensor) -> list[Tensor]:
    """Where each site of a model is zero on a batch [batch, context + 1]."""
    found: list[Tensor] = []

    def tap(site: Site, x: Tensor) -> Tensor:
        found.append(x == 0)
        return x

    model(batch[:, :-1], tap=tap)
    return found


def test_sparse_compute_begins_when_the_anneal_is_over() -> None:
    config = sparse_run()
    assert [step for step in range(24) if computes_sparsely(step, config)] == list(range(ANNEALED, 24))
    assert not any(computes_sparsely(step, config.replace(compute="dense")) for step in range(24))
    immediate = config.replace(anneal="none")
    assert [step for step in range(24) if computes_sparsely(step, immediate)] == list(range(1, 24))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sparse_biases": False, "gradient": "clip", "floor": 0, "model": MODEL.replace(sink=True)},
        {
            "gradient": "none",
            "recompute": True,
            "model": MODEL.replace(biases=False, positions="concatenated", bigram=False),
        },
        {"density_rule": "released", "model": MODEL.replace(d_model=512, n_layers=1, active_fraction=1.0)},
    ],
    ids=["recipe", "dense biases, clipped", "no biases, as it is", "dense embeddings"],
)
def test_step_is_the_exact_one_with_gradients_masked_to_the_support(changes: dict[str, object]) -> None:
    config = sparse_run(**changes)
    state, twin = after(config, ANNEALED + 1), after(config, ANNEALED + 1)
    kept = support(twin.model)
    dense = {name for name in kept if name.endswith("bias") and not config.sparse_biases}
    batch = synthetic_batch(ANNEALED + 1, config)

    # the slow way: a dense gradient, masked, normalized by the same estimate, and AdamW whose other moments stand still
    twin.optimizer.zero_grad(set_to_none=True)
    twin.losses(batch).total.backward()
    named = dict(twin.model.named_parameters())
    seen = [named[n].grad if n not in kept or n in dense else named[n].grad[kept[n]] for n in named]  # pyright: ignore
    assert state.support_share is not None
    rms = torch.cat([g.flatten() for g in seen]).square().mean().sqrt().item() / state.support_share  # pyright: ignore
    divisor = {"normalize": rms, "clip": max(rms, 1.0), "none": 1.0}[config.gradient]
    before = {name: [m.clone() for m in moments(twin, name)] for name in named}
    for name, parameter in named.items():
        assert parameter.grad is not None
        parameter.grad.div_(divisor)
        if name in kept and name not in dense:
            parameter.grad.mul_(kept[name])
    done = train_step(state, batch, config)
    for group in twin.optimizer.param_groups:
        group["lr"] = done.learning_rate
    twin.optimizer.step()

    assert done.gradient_rms == pytest.approx(rms, rel=1e-4)
    assert done.gradient_rms > 0
    for name, parameter in named.items():
        mask = kept[name] if name in kept and name not in dense else torch.ones_like(parameter, dtype=torch.bool)
        ours = state.model.get_parameter(name)
        torch.testing.assert_close(
            ours, parameter.where(mask, 0), rtol=1e-4, atol=1e-5, msg=lambda found, name=name: f"{name}: {found}"
        )
        for mine, whole, old in zip(moments(state, name), moments(twin, name), before[name], strict=True):
            torch.testing.assert_close(
                mine,
                torch.where(mask, whole, old),
                rtol=1e-4,
                atol=1e-5,
                msg=lambda found, name=name: f"{name}: {found}",
            )


def test_estimate_is_the_rms_on_the_batch_that_the_share_was_measured_on() -> None:
    config = sparse_run(learning_rate=1e-12, weight_decay=0.0)  # such a step changes nothing
    state = after(config, ANNEALED)
    exact = train_step(state, synthetic_batch(0, config), config)
    estimated = train_step(state, synthetic_batch(0, config), config)
    assert state.support_share is not None
    assert 0 < state.support_share < 1
    assert estimated.loss == pytest.approx(exact.loss, rel=1e-5)
    assert estimated.gradient_rms == pytest.approx(exact.gradient_rms, rel=1e-4)


def test_support_moves_in_exact_steps_alone() -> None:
    config = sparse_run(steps=40, anneal_stop=0.2, learning_rate=0.3)
    state = after(config, ANNEALED)
    moved = []
    for step in range(ANNEALED, 40):
        before = support(state.model)
        train_step(state, synthetic_batch(step, config), config)
        if turnover(before, state.model):
            moved.append(step)
        else:
            assert all(torch.equal(now, before[name]) for name, now in support(state.model).items())
    assert len(moved) > 3
    assert {step % 4 for step in moved} == {0}


def test_value_that_comes_to_be_zero_stays_in_the_support() -> None:
    state = after(sparse_run(), ANNEALED + 2)
    known = state.support
    assert known is not None
    entries = known.entries[0]
    with torch.no_grad():
        entries.values[3] = 0
        entries.put_back((torch.zeros_like(entries.values), torch.zeros_like(entries.values)))
    assert entries.parameter.flatten()[entries.indices[3]] == NEVER_ZERO
    assert int(entries.parameter.count_nonzero()) == len(entries.indices)


def test_share_is_a_running_mean() -> None:
    assert mean_share(None, 0.5) == 0.5
    assert mean_share(0.5, 0.1) == pytest.approx(0.75 * 0.5 + 0.25 * 0.1)


def test_loss_falls_as_with_exact_steps() -> None:
    losses = {}
    for compute in ("dense", "sparse"):
        config = sparse_run(compute=compute, steps=60, anneal_stop=0.2)
        state = new_state(config)
        found = [train_step(state, synthetic_batch(step, config), config).loss for step in range(60)]
        losses[compute] = sum(found[-8:]) / 8
        assert losses[compute] < found[0] - 1
    assert losses["sparse"] == pytest.approx(losses["dense"], abs=0.5)


def test_teacher_is_listened_to_on_the_support() -> None:
    config = sparse_run()
    state = new_state(config, teacher=new_state(config.replace(seed=3)).model)
    for step in range(ANNEALED + 2):
        done = train_step(state, synthetic_batch(step, config), config)
    assert state.support is not None
    assert done.parts
    assert math.isfinite(done.parts["divergence"])


@pytest.mark.parametrize("stops", [(14,), (ANNEALED, 13, 16, 23)])
def test_resumed_run_is_the_uninterrupted_one(stops: tuple[int, ...], tiny_tokens: Tokens, tmp_path: Path) -> None:
    config = sparse_run()
    train(config, tiny_tokens, tmp_path / "whole")

    def report(done: int, total: int, status: str) -> None:
        if done in stops:
            os.kill(os.getpid(), signal.SIGINT)

    for _ in stops:
        with pytest.raises(KeyboardInterrupt):
            train(config, tiny_tokens, tmp_path / "cut", monitoring=Monitoring(report))
    train(config, tiny_tokens, tmp_path / "cut")
    for name in ("weights.safetensors", "metrics.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_watchers_see_the_ordinary_model_and_validation_the_same_losses(tiny_tokens: Tokens, tmp_path: Path) -> None:
    config = sparse_run(validate_every=5)
    seen = {}

    class Watcher:
        def due(self, step: int) -> bool:
            return step == 15

        def __call__(self, step: int, model):
            seen.update({name: value.clone() for name, value in model.state_dict().items()})
            return {"watched": 1}

    train(config, tiny_tokens, tmp_path, monitoring=Monitoring(watchers=[Watcher()]))
    state = new_state(config)
    assert seen.keys() == state.model.state_dict().keys()
    state.model.load_state_dict(seen)
    for name, parameter in sparse_parameters(state.model):
        assert int(parameter.count_nonzero()) <= max(1, round(parameter.numel() / 16)), name
    rows = torch.from_numpy(tiny_tokens.validation("idioms", 256, 16))
    with torch.no_grad():
        expected = state.objective(rows).parts["loss"].item()
    found = read_metrics(tmp_path)["val_losses/idioms"]
    assert dict(zip(found.steps, found.values, strict=True))[15] == pytest.approx(expected, rel=1e-5)

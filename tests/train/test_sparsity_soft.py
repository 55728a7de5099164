"""Soft top-k: exact top-k forward, and a backward pass that is its documented formula, one weight at a time."""

import math
from collections.abc import Sequence

import pytest
import torch
from cases import case
from reference.selection import keep, largest
from tiny import synthetic_batch, tiny_model, tiny_run

from thinwire.model.weights import floor_dim, sparse_parameters
from thinwire.train.l0 import budget, project
from thinwire.train.sparsity.soft_topk import SoftTopK, SoftTopKOptions, pass_fractions
from thinwire.train.step import new_state, train_step


def fractions(values: Sequence[float], kept: set[int], k: int, factor: float, temperature: float) -> list[float]:
    """The fraction of its gradient that each weight is to get."""
    t = sorted(map(abs, values), reverse=True)[k - 1]
    reached = min(round(factor * k), len(values))
    wide = largest(values, reached)
    if sum(values[i] != 0 for i in wide) < reached:
        wide |= {i for i, value in enumerate(values) if value == 0}
    found = []
    for i, value in enumerate(values):
        if i in kept and value != 0:
            found.append(1.0)
        elif i not in wide:
            found.append(0.0)
        elif t == 0:
            found.append(1.0)
        else:
            found.append(2 / (1 + math.exp(-(abs(value) - t) / (temperature * t))))
    return found


def test_fractions_are_the_formula() -> None:
    for values in ["random", "tied", "few", "none"]:
        for factor in [1.0, 1.5, 4.0, 100.0]:
            with case(factor, values):
                dense = torch.randn(7, 9, generator=torch.Generator().manual_seed(3))
                if values == "tied":
                    dense = dense.mul(2).round()
                if values == "few":
                    dense = dense * (torch.arange(63).view(7, 9) % 7 == 0)
                if values == "none":
                    dense = torch.zeros(7, 9)
                flat, k = dense.flatten().tolist(), 12
                kept = torch.tensor(keep(flat, k)).view(7, 9)
                options = SoftTopKOptions(backward_factor=factor, temperature=0.3)
                expected = fractions(flat, largest(flat, k), k, factor, 0.3)
                found = pass_fractions(dense, kept, k, options)
                torch.testing.assert_close(found.flatten(), torch.tensor(expected), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("floor", [0, 2])
def test_forward_is_the_projection_and_backward_the_fractions(floor: int) -> None:
    config = tiny_run(sparsity="soft_topk", density=1 / 4, floor=floor)
    model, twin = tiny_model(vocab_size=300), tiny_model(vocab_size=300)
    sparsifier = SoftTopK(model, config)
    sparsifier.after_step(model, 20)
    counts = budget(model, 20, config)
    project(twin, counts, floor)
    weights = sparsifier.effective(model)
    assert set(weights) == {name for name, _ in sparse_parameters(model)}
    generator = torch.Generator().manual_seed(0)
    for name, weight in weights.items():
        kept = twin.get_parameter(name).detach()
        assert torch.equal(weight, kept), name
        gradient = torch.randn(weight.shape, generator=generator)
        weight.backward(gradient)
        parameter = model.get_parameter(name)
        passes = pass_fractions(parameter.detach(), kept, counts[name], sparsifier.options)
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient * passes, msg=name)
        assert int((passes > 0).sum()) > int((kept != 0).sum()), name
        if floor and floor_dim(name) is not None:
            assert int((kept != 0).sum(floor_dim(name)).min()) >= floor, name


def test_weights_that_do_not_compute_are_kept_and_trained() -> None:
    config = tiny_run(sparsity="soft_topk", density=1 / 8, anneal="none", weight_decay=0, learning_rate=0.1)
    state = new_state(config)
    train_step(state, synthetic_batch(0, config), config)
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    with state.objective.materialized(1) as model:
        computing = {name: p != 0 for name, p in model.named_parameters()}
    train_step(state, synthetic_batch(1, config), config)
    for name in ("blocks.0.mlp.w_in.weight", "unembedding.weight"):
        weight = state.model.get_parameter(name)
        assert int(weight.count_nonzero()) == weight.numel()
        assert int(computing[name].sum()) == round(weight.numel() / 8)
        assert int(((weight != before[name]) & ~computing[name]).sum()) > 0

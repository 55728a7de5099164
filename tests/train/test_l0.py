"""Weight sparsity: exact counts at every step, the floor, and the schedules in numbers worked out by hand."""

import pytest
import torch
from cases import case
from reference import selection
from tiny import SHAPE, synthetic_batch, tiny_model, tiny_run, uniform_budget

from thinwire.errors import UserError
from thinwire.model import Transformer
from thinwire.model.weights import floor_dim, sparse_parameters
from thinwire.train import PRESETS
from thinwire.train.density import density_at, n_kept
from thinwire.train.l0 import check_floor, project
from thinwire.train.schedule import learning_rate_at, linear_rate
from thinwire.train.step import new_state, train_step


def test_counts_are_exact_at_every_step() -> None:
    for floor in [0, 1, 2]:
        with case(floor):
            config = tiny_run(floor=floor, density=0.25, steps=15, anneal_stop=0.5)
            state = new_state(config)
            check_floor(state.model, config)
            for step in range(config.steps):
                done = train_step(state, synthetic_batch(step, config), config)
                density = density_at(step + 1, config)
                assert done.density == density
                for name, parameter in sparse_parameters(state.model):
                    kept, count = n_kept(parameter.numel(), density), int(parameter.count_nonzero())
                    if name.endswith("bias"):  # these start at zero, and one without a gradient so far is still there
                        assert kept - 2 <= count <= kept, (step, name)
                    else:
                        assert count == kept, (step, name)
                    dim = floor_dim(name)
                    if dim is not None:
                        assert int((parameter != 0).sum(dim).min()) >= floor, (step, name)
            assert density == config.density


def test_dense_training_zeroes_nothing() -> None:
    config = tiny_run(density=1.0, steps=2)
    state = new_state(config)
    before = {name: int(p.count_nonzero()) for name, p in state.model.named_parameters() if "weight" in name}
    for step in range(2):
        train_step(state, synthetic_batch(step, config), config)
    assert all(int(state.model.get_parameter(name).count_nonzero()) >= count for name, count in before.items())


def test_projection_is_that_of_the_twin() -> None:
    for floor in [0, 1, 3]:
        with case(floor):
            model, twin = tiny_model(), tiny_model()
            project(model, uniform_budget(model, 0.25), floor)
            for name, parameter in sparse_parameters(twin):
                dim, width = floor_dim(name), parameter.shape[-1]
                reserved: list[int] = []
                if dim is not None:
                    for channel, row in enumerate((parameter if dim == 1 else parameter.T).tolist()):
                        places = selection.largest(row, floor)
                        reserved += [channel * width + i if dim == 1 else i * width + channel for i in places]
                kept = selection.keep(parameter.flatten().tolist(), n_kept(parameter.numel(), 0.25), reserved)
                assert model.get_parameter(name).flatten().tolist() == kept, name


def test_density_falls_linearly() -> None:
    config = tiny_run(steps=100, anneal_start=0.1, anneal_stop=0.6, density=0.2)
    at = {step: density_at(step, config) for step in (0, 10, 11, 35, 60, 61, 100)}
    assert at == pytest.approx({0: 1, 10: 1, 11: 1 - 0.8 / 50, 35: 0.6, 60: 0.2, 61: 0.2, 100: 0.2})
    assert density_at(0, tiny_run(density=1.0, anneal_start=0, anneal_stop=0)) == 1
    from_the_start = tiny_run(steps=100, anneal_start=0, anneal_stop=0.1, density=0.2)
    assert density_at(1, from_the_start) == pytest.approx(0.92)


def test_number_kept() -> None:
    assert [n_kept(1000, density) for density in (1, 0.5, 0.0015, 1e-9)] == [1000, 500, 2, 1]


def test_floor_that_does_not_fit_is_refused() -> None:
    model = tiny_model()
    check_floor(model, tiny_run(floor=2, density=1 / 8, model=SHAPE))  # 16 rows × 2 of 256 weights, just
    with pytest.raises(UserError, match=r"A floor of 3 needs 48 nonzeros in .*w_q.weight, and density 0.125 leaves 32"):
        check_floor(model, tiny_run(floor=3, density=1 / 8, model=SHAPE))
    check_floor(model, tiny_run(floor=0, density=1e-3, model=SHAPE))


def test_annealing_backwards_is_refused() -> None:
    with pytest.raises(UserError, match=r"anneal_start 0.5 is not before anneal_stop 0.5"):
        tiny_run(anneal_start=0.5, anneal_stop=0.5)


class Unfilled(Transformer):
    """A model without numbers, of any size."""

    def _initialize(self, generator: torch.Generator) -> None: ...


def test_presets_fit_their_own_floor() -> None:
    for name in list(PRESETS):
        with case(name):
            config = PRESETS[name]()
            model = config.model.replace(vocab_size=2)
            with torch.device("meta"):
                check_floor(Unfilled(model), config)


def rates(**changes: object) -> dict[int, float]:
    config = tiny_run(
        steps=100, learning_rate=1.0, warmup=0.1, density=0.25, anneal_start=0.2, anneal_stop=0.7, **changes
    )
    return {step: learning_rate_at(step, config) for step in (0, 4, 9, 19, 44, 69, 99)}


def test_learning_rate_without_the_l0_factor() -> None:
    assert rates(l0_factor="off") == pytest.approx(
        {0: 0.1, 4: 0.5 * 0.96, 9: 0.91, 19: 0.81, 44: 0.56, 69: 0.31, 99: 0.01}
    )


def test_sharkfin_relative_to_the_final_density() -> None:
    """The density after the update is 1, 1, 1, 1, 0.625, 0.25, 0.25; the factor sqrt(0.25 / density)."""
    assert rates(l0_factor="final") == pytest.approx(
        {
            0: 0.1 * 0.5,
            4: 0.5 * 0.96 * 0.5,
            9: 0.91 * 0.5,
            19: 0.81 * 0.5,
            44: 0.56 * 0.4**0.5,
            69: 0.31,
            99: 0.01,
        }
    )


def test_sharkfin_in_absolute_terms() -> None:
    assert rates(l0_factor="absolute") == pytest.approx(
        {0: 0.1, 4: 0.48, 9: 0.91, 19: 0.81, 44: 0.56 / 0.625**0.5, 69: 0.62, 99: 0.02}
    )


def test_no_warmup_starts_at_the_peak() -> None:
    assert learning_rate_at(0, tiny_run(warmup=0, l0_factor="off", learning_rate=0.3)) == pytest.approx(0.3)


def test_linear_rate_rises_and_falls() -> None:
    rates = [linear_rate(1.0, step, 100, warmup=0.1) for step in (0, 4, 9, 50, 99)]
    assert rates == pytest.approx([0.1, 0.48, 0.91, 0.5, 0.01])
    assert linear_rate(1.0, 0, 100, warmup=0.0) == 1

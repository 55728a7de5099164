"""The density of each kind of parameter in numbers worked out by hand, and what a floor needs of it."""

from typing import Any

import pytest
from cases import case
from tiny import SHAPE, tiny_run

from thinwire.errors import UserError
from thinwire.train.density import check_floor, density_of

MATRIX, EMBEDDING, BIAS = "blocks.0.mlp.w_in.weight", "embedding.weight", "blocks.0.mlp.w_in.bias"


def densities(step: int, width: int = 512, **rule: object) -> list[float]:
    """Densities of a matrix, an embedding and a bias in a run to one in eight, annealed from step 0 to step 100."""
    defaults: dict[str, Any] = {"steps": 200, "density": 1 / 8, "anneal_start": 0.0, "anneal_stop": 0.5, "floor": 0}
    config = tiny_run(**defaults | {"model": SHAPE.replace(d_model=width)} | rule)
    return [density_of(name, step, config) for name in (MATRIX, EMBEDDING, BIAS)]


def test_one_rule_for_all() -> None:
    assert densities(0) == [1, 1, 1]
    assert densities(50) == [0.5625] * 3
    assert densities(200) == [0.125] * 3
    assert densities(200, sparse_biases=False) == [0.125, 0.125, 1]


def test_the_released_rule_counts_expansion_outside_matrices() -> None:
    assert densities(50, density_rule="released") == [0.5625, 0.625, 0.625]
    assert densities(200, density_rule="released") == [0.125, 0.25, 0.25]
    assert densities(200, width=128, density_rule="released") == [0.125, 0.0625, 0.0625]
    assert densities(200, width=4096, density_rule="released") == [0.125, 1, 1]


def test_late_embeddings_wait_until_matrices_are_as_sparse() -> None:
    late: dict[str, Any] = {"density_rule": "released", "embedding_anneal": "late"}
    assert densities(50, **late) == [0.5625, 1, 1]
    assert densities(80, **late) == pytest.approx([0.3, 0.6, 0.6])
    assert densities(200, **late) == [0.125, 0.25, 0.25]


def test_a_dense_run_is_dense_under_every_rule() -> None:
    for width in [64, 512]:
        for anneal in ["together", "late"]:
            with case(anneal, width):
                rule: dict[str, Any] = {"density_rule": "released", "embedding_anneal": anneal, "density": 1.0}
                assert [densities(step, width, **rule) for step in (0, 100, 200)] == [[1, 1, 1]] * 3


def test_floor_is_held_against_what_is_left_at_the_end() -> None:
    config = tiny_run(floor=2, density=1 / 8)
    check_floor(MATRIX, 16, 256, config)  # 16 channels × 2 of 256 / 8, just
    with pytest.raises(UserError, match=r"A floor of 2 needs 34 nonzeros in blocks\.0.*, and density 0\.125 leaves 32"):
        check_floor(MATRIX, 17, 256, config)

"""Which runs compute on the support, and what is refused."""

import pytest
from cases import case
from plan_pieces import flat_device
from tiny import sparse_run

from thinwire.errors import UserError
from thinwire.train.plan import plan
from thinwire.train.sparse_step import check_compute


def test_configs_that_cannot_compute_sparsely_are_refused() -> None:
    for changes, said in [
        ({"sparsity": "soft_topk", "floor": 0}, "topk alone, not for soft_topk"),
        ({"density": 1.0}, "nothing at density 1;"),
        ({"density": 1 / 8}, "nothing at density 0.125;"),
        ({"support_every": 0}, "support_every"),
    ]:
        with case(changes, said), pytest.raises(UserError, match=said):
            sparse_run(**changes)


def test_places_that_cannot_compute_sparsely_are_refused() -> None:
    check_compute(sparse_run(), "cpu")
    with pytest.raises(UserError, match="no sparse kernels to train with on 'meta'"):
        check_compute(sparse_run(), "meta")
    check_compute(sparse_run(compute="dense"), "meta")
    sparse_run().check_ranks(1)
    with pytest.raises(UserError, match="one process, not on 2 ranks"):
        sparse_run().check_ranks(2)


def test_plan_says_that_it_counts_exact_steps() -> None:
    (note,) = plan(sparse_run(), "", flat_device()).notes
    assert "counted as an exact one" in note
    with pytest.raises(UserError, match="one process"):
        plan(sparse_run(), "", flat_device(), ranks=2)

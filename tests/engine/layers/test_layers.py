"""Whole layers in few kernel calls, against the reference composed of the other rooms."""

import pytest
import torch
from torch import Tensor

from tests.engine.check_layers import Sizes, check_layers, drawn_layers
from tests.engine.inputs import case, draw_ablation, feature_major, normal
from thinwire.engine.layers import operator, reference
from thinwire.engine.layers.operator import run_layers
from thinwire.engine.layers.parts import site_widths
from thinwire.engine.sites.pointwise import Ablation

SIZES = Sizes(width=12, d_head=4, d_mlp=20, d_pos=3)


def test_drawn_layers() -> None:
    """One layer and several, with and without position channels and ablations; tokens around tiles, trials in them."""
    for batch, length, n_layers, trials in [(1, 1, 1, 0), (2, 5, 3, 0), (2, 5, 3, 2), (1, 65, 2, 1), (3, 64, 1, 3)]:
        for sizes in (SIZES, Sizes(17, 1, 5, 0), Sizes(3, 9, 33, 1)):
            with case(batch, length, n_layers, trials, sizes):
                check_layers(sizes, batch, length, n_layers, trials)
    check_layers(SIZES, 4, 130, 2, 2)


def test_attention_may_be_replaced_and_positions_be_copied_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is the same to the bit."""
    layers, stream = drawn_layers(Sizes(12, 4, 20, 0), 3, False, 5), feature_major(normal(2, 40, 12)).detach()
    expected = run_layers(stream, 9, layers, [[]] * 4)

    def attend(i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return feature_major(reference.attend(layers[i], q, k, v)).detach()

    replaced = run_layers(stream, 12, layers, [[]] * 4, attend)
    torch.testing.assert_close(replaced, run_layers(stream, 12, layers, [[]] * 4), rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(operator, "MAX_POSITIONS", -1)
    assert run_layers(stream, 9, layers, [[]] * 4).equal(expected)
    monkeypatch.setattr(operator, "use_threads", lambda: None)
    for threads in (2, 3, 64):
        monkeypatch.setattr(operator.torch, "get_num_threads", lambda n=threads: n)
        assert run_layers(stream, 9, layers, [[]] * 4).equal(expected)


def test_ablations_that_do_not_fit_are_refused() -> None:
    layers, stream = drawn_layers(Sizes(12, 4, 20, 0), 1, False, 0), normal(2, 5, 12)
    widths = site_widths(None, layers[0].beginning)
    drawn = [draw_ablation(2, width, 0.5) for width in widths]
    with pytest.raises(ValueError, match="does not fit"):
        run_layers(stream, 12, layers, [[*drawn[:-1], draw_ablation(2, widths[-1] + 1, 0.5)], []])
    with pytest.raises(ValueError, match="different numbers of trials"):
        run_layers(stream, 12, layers, [[*drawn[:-1], Ablation(drawn[-1].values, drawn[-1].mask[:1])], []])

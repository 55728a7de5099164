"""What tests of compiled models share."""

import pytest
from twins import twins

from thinwire.compiled import fused
from thinwire.model import Transformer


@pytest.fixture
def model() -> Transformer:
    """A compiled model."""
    return twins()[1]


@pytest.fixture
def fused_layers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The layers that ran fused, call by call."""
    calls: list[tuple[int, ...]] = []
    run = fused.run_fused

    def counted(model, resid, start, stop, how):
        assert start % 2 == stop % 2 == 0
        calls.append(tuple(range(start // 2, stop // 2)))
        return run(model, resid, start, stop, how)

    monkeypatch.setattr(fused, "run_fused", counted)
    return calls

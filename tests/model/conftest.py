"""What tests of models share."""

from typing import Any

import pytest

from tests.model.layers import made
from thinwire.engine import layers
from thinwire.model import Transformer, unseen
from thinwire.model.sparse import compile_sparse


@pytest.fixture
def model() -> Transformer:
    return compile_sparse(made(), below=1.0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the operator was given, call by call."""
    seen: list[Any] = []

    def counted(*args: Any) -> Any:
        seen.append(args)
        return layers.between_attentions(*args)

    monkeypatch.setattr(unseen, "between_attentions", counted)
    return seen

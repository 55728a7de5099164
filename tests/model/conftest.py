"""What tests of models share."""

from typing import Any

import pytest

from tests.model.layers import made
from thinwire.compiled.compile import compile_sparse
from thinwire.model import Transformer, unseen


@pytest.fixture
def model() -> Transformer:
    return compile_sparse(made(), below=1.0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the operators for layers that nobody looks into were given, call by call."""
    seen: list[Any] = []

    def counted(run: Any) -> Any:
        def noted(*args: Any) -> Any:
            seen.append(args)
            return run(*args)

        return noted

    for name in ("run_layers", "between_attentions"):
        monkeypatch.setattr(unseen, name, counted(getattr(unseen, name)))
    return seen

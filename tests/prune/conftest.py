"""What several tests of pruning share."""

from collections.abc import Iterator
from unittest import mock

import planted
import pytest


@pytest.fixture
def in_float32() -> Iterator[None]:
    """Masks are otherwise trained in bfloat16 where the processor computes it natively."""
    with mock.patch("torch.cpu._is_avx512_bf16_supported", return_value=False):
        yield


@pytest.fixture(scope="module")
def plant() -> planted.Planted:
    """A planted circuit of two layers."""
    return planted.chain()

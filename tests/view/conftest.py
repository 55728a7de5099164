"""Hand-made payloads, built once: all tests of the room read them and none changes them."""

import pytest
from view_examples import example_payload, large_payload

from thinwire.view.payload import Payload


@pytest.fixture(scope="session")
def example() -> Payload:
    """The quote circuit, a random circuit of 60 nodes, an empty one, and a hostile one."""
    return example_payload()


@pytest.fixture(scope="session")
def large() -> Payload:
    """One circuit of 500 nodes and 5,000 edges."""
    return large_payload()

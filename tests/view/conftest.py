"""Hand-made payloads, built once: all tests of the room read them and none changes them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import BROWSERS
from view_examples import example_payload, large_payload, with_checks

from thinwire.view import page
from thinwire.view.payload import Payload


@pytest.fixture(scope="session")
def example() -> Payload:
    """The quote circuit, a random circuit of 60 nodes, an empty one, and a hostile one."""
    return example_payload()


@pytest.fixture(scope="session")
def large() -> Payload:
    """One circuit of 500 nodes and 5,000 edges."""
    return large_payload()


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, example: Payload, large: Payload) -> Path:
    made = tmp_path_factory.mktemp("pages")
    page.write(example, made / "example.html")
    page.write(large, made / "large.html")
    page.write(example.replace(tasks=()), made / "nothing.html")
    page.write(with_checks(example, 25), made / "checks.html")
    return made

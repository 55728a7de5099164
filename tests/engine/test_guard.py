"""CPU kernels touch no memory but their arrays: see `guard`."""

import signal
import sys
from pathlib import Path

import pytest

from tests.engine.processes import ALL, run_pytest, run_python

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="guard pages are made with mprotect(2)")


def check(log: Path, *arguments: str) -> None:
    """Run tests between guard pages; a crash is a failure that names the kernel."""
    done = run_pytest("-p", "tests.engine.guard", "--guard-log", str(log), *arguments)
    if done.returncode < 0:
        pytest.fail(f"{signal.Signals(-done.returncode).name} in {log.read_text()}", pytrace=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_every_kernel_with_few_inputs(tmp_path: Path) -> None:
    check(tmp_path / "kernel", "tests/engine/guard_cases.py")


@pytest.mark.slow
def test_every_kernel_with_many_inputs(tmp_path: Path) -> None:
    check(tmp_path / "kernel", "-m", "", "tests/engine/guard_cases.py")


@pytest.mark.slow
def test_all_tests_between_guard_pages(tmp_path: Path) -> None:
    check(tmp_path / "kernel", *ALL)


@pytest.mark.parametrize(("kernel", "side"), [("write_behind", "end"), ("read_before", "begin")])
def test_the_guard_catches_a_broken_kernel(kernel: str, side: str, tmp_path: Path) -> None:
    done = run_python("tests/engine/guard_broken.py", kernel, str(tmp_path / "kernel"))
    assert done.returncode == -signal.SIGSEGV
    message = f"__main__.{kernel}, whose arrays {side} at a guard page, in no test: (float32[5], float32[5])"
    assert (tmp_path / "kernel").read_text() == message

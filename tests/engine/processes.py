"""Tests that run in a process of their own: where a crash is expected, or for another processor."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OTHERS = ("test_guard.py", "test_targets.py", "test_triton.py", "test_triton_products.py")
"""Tests of the engine that start such processes themselves, or are for GPUs."""
ALL = ("tests/engine", *(f"--ignore=tests/engine/{name}" for name in OTHERS))
"""Arguments of pytest that select all tests of CPU kernels."""


def run_python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python from the repository's root, with further environment variables."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = own | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **variables}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def run_pytest(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run tests that way."""
    return run_python("-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", *arguments, **variables)

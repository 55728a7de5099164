"""Compiled kernels on disk: read again, and made again where a file is damaged."""

import logging
from pathlib import Path

import numpy as np
import pytest

from thinwire.engine import jit


def double(x):
    for i in range(len(x)):
        x[i] *= 2


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(jit, "_cache_folder", lambda: str(tmp_path))
    return tmp_path


def doubled() -> tuple[list[float], int]:
    """What a freshly decorated kernel makes of one and two, and how often it was found on disk."""
    made = jit.inner(double)
    x = np.array([1, 2], np.float32)
    made(x)
    return x.tolist(), sum(made.stats.cache_hits.values())


def test_a_kernel_is_read_again(folder: Path) -> None:
    assert doubled() == ([2, 4], 0)
    assert doubled() == ([2, 4], 1)


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("left", [0, 100])
def test_a_damaged_file_is_written_again(folder: Path, kind: str, left: int) -> None:
    doubled()
    (damaged,) = folder.rglob(f"*.{kind}")
    damaged.write_bytes(damaged.read_bytes()[:left])
    assert doubled() == ([2, 4], 0)
    assert doubled() == ([2, 4], 1)


def test_compiling_is_said_once_and_reading_is_not(folder: Path, caplog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(double, "__module__", "thinwire.engine.double")
    jit._say_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="thinwire"):
        doubled()
        doubled()
        assert [record.message[:9] for record in caplog.records] == ["Compiling"]
        jit._say_once.cache_clear()
        doubled()
        assert len(caplog.records) == 1

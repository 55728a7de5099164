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
    monkeypatch.setattr(jit, "_cache_folder", lambda: tmp_path)
    return tmp_path


def doubled() -> tuple[list[float], int]:
    """One and two, doubled by a freshly decorated kernel, and how often its code was found on disk."""
    compiled = jit.device_function(double)
    x = np.array([1, 2], np.float32)
    compiled(x)
    return x.tolist(), sum(compiled.stats.cache_hits.values())


def test_a_kernel_is_read_again(folder: Path) -> None:
    assert doubled() == ([2, 4], 0)
    assert doubled() == ([2, 4], 1)


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_a_damaged_file_is_written_again(folder: Path, kind: str) -> None:
    """Cut off, or changed in the middle."""
    doubled()
    (damaged,) = folder.rglob(f"*.{kind}")
    good = damaged.read_bytes()
    middle = len(good) // 2
    for damage in (b"", good[:100], good[:middle] + bytes(64) + good[middle + 64 :]):
        damaged.write_bytes(damage)
        assert doubled() == ([2, 4], 0)
        assert doubled() == ([2, 4], 1)


def test_compiling_is_logged_once_and_reading_is_not(folder: Path, caplog) -> None:
    with caplog.at_level(logging.INFO, logger="thinwire"):
        for _ in range(3):
            jit._compiling.cache_clear()
            doubled()
            assert [record.message[:9] for record in caplog.records] == ["Compiling"]


def test_without_a_folder_every_process_compiles(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    def none(function) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(jit, "_Cache", none)
    jit._compiling.cache_clear()
    with caplog.at_level(logging.INFO, logger="thinwire"):
        assert doubled() == ([2, 4], 0)
        assert doubled() == ([2, 4], 0)
    assert len(caplog.records) == 1

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
    made = jit.device_function(double)
    x = np.array([1, 2], np.float32)
    made(x)
    return x.tolist(), sum(made.stats.cache_hits.values())


def test_a_kernel_is_read_again(folder: Path) -> None:
    assert doubled() == ([2, 4], 0)
    assert doubled() == ([2, 4], 1)


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("kept", [0, 100, "middle changed"])
def test_a_damaged_file_is_written_again(folder: Path, kind: str, kept: int | str) -> None:
    doubled()
    (damaged,) = folder.rglob(f"*.{kind}")
    good = damaged.read_bytes()
    middle = len(good) // 2
    damaged.write_bytes(good[:kept] if isinstance(kept, int) else good[:middle] + bytes(64) + good[middle + 64 :])
    assert doubled() == ([2, 4], 0)
    assert doubled() == ([2, 4], 1)


def test_compiling_is_said_once_and_reading_is_not(folder: Path, caplog) -> None:
    with caplog.at_level(logging.INFO, logger="thinwire"):
        for said in (1, 1, 1):
            jit._compiling.cache_clear()
            doubled()
            assert [record.message[:9] for record in caplog.records] == ["Compiling"] * said


def test_without_a_folder_every_process_compiles(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    def none(function) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(jit, "_Cache", none)
    jit._compiling.cache_clear()
    with caplog.at_level(logging.INFO, logger="thinwire"):
        assert doubled() == ([2, 4], 0)
        assert doubled() == ([2, 4], 0)
    assert len(caplog.records) == 1

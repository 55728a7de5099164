"""Compiled kernels on disk: read again, and made again where a file is damaged."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numba
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


def test_code_of_other_sources_is_made_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it lies: here in one folder for all sources."""
    assert doubled() == ([2, 4], 0)
    monkeypatch.setattr(jit, "_sources", lambda: "other sources")
    assert doubled() == ([2, 4], 0)
    assert doubled() == ([2, 4], 1)


def test_every_place_has_a_folder_for_each_state_of_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the package, or where that cannot be written, in the user's folder or where numba is told."""
    find = jit._cache_folder.__wrapped__
    assert find() == Path(jit.__file__).parent / "__pycache__" / f"kernels-{jit._sources()}"
    monkeypatch.setattr(jit, "_is_writable", lambda folder: False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for told in ("", str(tmp_path / "told")):
        monkeypatch.setattr(numba.config, "CACHE_DIR", told)
        found = find()
        assert found.name == f"kernels-{jit._sources()}"
        assert found.is_relative_to(told or tmp_path)


TWO_AT_ONCE = """
import threading, numpy as np
from thinwire.engine.topk import rows
x = np.arange(1, 4_000_001, dtype=np.int32)
rows.count_reaching(x, 3)
counts = []
threads = [threading.Thread(target=lambda: counts.extend(rows.count_reaching(x, 3) for _ in range(20))) for _ in "1234"]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(set(counts))
"""


def test_threads_take_turns_where_numba_cannot_run_two_kernels_at_once() -> None:
    environment = os.environ | {"NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", TWO_AT_ONCE], env=environment, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("{3999998}", 0), done.stderr

"""The GPU benchmark: what it measures, on tiny shapes in Triton's interpreter, and its refusal without a device."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_run

GPU = torch.cuda.is_available()
pytest.importorskip("triton", reason="Triton is not installed: no GPU kernels to measure")
BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
DEVICE = torch.device("cuda" if GPU else "cpu")


@pytest.fixture(autouse=True)
def _benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_exact_and_ratios_are_of_the_times(dtype: torch.dtype) -> None:
    from gpu import measure_rows

    found = measure_rows(16, 64, dtype, 1, DEVICE)
    assert found["exact"] is True
    assert found["speedup"] == found["plain_ms"] / found["ours_ms"]
    moved = 2 * 16 * 64 * dtype.itemsize
    assert found["gb_per_s"] == pytest.approx(moved / 1e9 / (found["ours_ms"] / 1e3))


def test_projection_is_exact_with_a_floor() -> None:
    from gpu import measure_projection

    found = measure_projection((8, 128), 1, 1, DEVICE)
    assert found["exact"] is True
    assert found["speedup"] == found["plain_ms"] / found["ours_ms"]


def test_steps_of_all_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    from gpu import measure_steps

    config = tiny_run()
    found = measure_steps(config, 1, DEVICE)
    for kind in ("sparse", "dense", "plain"):
        assert found[kind]["tokens_per_second"] == pytest.approx(4 * 16 / (found[kind]["ms"] / 1e3))
    assert found["sparse_over_dense"] == found["sparse"]["ms"] / found["dense"]["ms"]
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.skipif(GPU, reason="there is a device")
def test_no_device_is_one_sentence() -> None:
    done = subprocess.run([sys.executable, str(BENCHMARKS / "gpu.py"), "--json"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "There is no CUDA device here; run this benchmark on a machine that has one.\n"

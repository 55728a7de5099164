"""The GPU benchmark: its measurements on tiny shapes in Triton's interpreter, and its error without a device."""

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


def test_selections_are_exact_and_ratios_are_of_the_times() -> None:
    from gpu import measure_projection, measure_rows

    for dtype in (torch.float32, torch.bfloat16):
        found = measure_rows(16, 64, dtype, 1, DEVICE)
        assert found["exact"] is True
        assert found["speedup"] == found["plain_ms"] / found["ours_ms"]
        moved = 2 * 16 * 64 * dtype.itemsize
        assert found["gb_per_s"] == pytest.approx(moved / 1e9 / (found["ours_ms"] / 1e3))
    for floor in (0, 1):
        found = measure_projection((8, 128), floor, 1, DEVICE)
        assert found["exact"] is True
        assert found["speedup"] == found["plain_ms"] / found["ours_ms"]


def test_sparse_products_are_close_and_columns_exact(capsys: pytest.CaptureFixture[str]) -> None:
    from gpu_products import KINDS, measure_columns, measure_product, print_products

    dtypes = (torch.float32, torch.bfloat16)
    products = [measure_product((24, 40), 33, 1 / 16, dtype, 1, DEVICE) for dtype in dtypes]
    for found in products:
        assert found["nonzeros"] == 60
        assert found["close"] is True
        for kind in KINDS:
            assert found[f"{kind}_speedup"] == found[f"{kind}_dense_ms"] / found[f"{kind}_ours_ms"]
    columns = measure_columns(32, 5, 1, DEVICE)
    assert columns["exact"] is True
    assert columns["speedup"] == columns["transposed_ms"] / columns["ours_ms"]
    print_products(products, [columns])
    assert len(capsys.readouterr().out.splitlines()) == 5


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

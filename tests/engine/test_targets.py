"""Kernels for other processors than this one: AVX2 alone is run, AVX-512 compiled."""

import json
import platform

import llvmlite.binding as llvm
import pytest

from tests.engine.processes import ALL, run_pytest, run_python

AVX2 = {
    "NUMBA_CPU_NAME": "x86-64-v3",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+bmi,+bmi2,+lzcnt,+popcnt,+f16c,+movbe,-avx512f",
}
AVX512 = {
    "NUMBA_CPU_NAME": "skylake-avx512",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+bmi,+bmi2,+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl",
}
needs_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="compiles for x86-64")
needs_avx2 = pytest.mark.skipif(not llvm.get_host_cpu_features().get("avx2"), reason="this processor has no AVX2")


@needs_x86
@pytest.mark.parametrize(("target", "lanes", "register"), [(AVX2, 8, "ymm"), (AVX512, 16, "zmm")])
def test_parts_compile_for(target: dict[str, str], lanes: int, register: str) -> None:
    """Registers have the width of the target, whatever this processor has; nothing is run."""
    done = run_python("tests/engine/compile_for_target.py", **target)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("register_lanes") == lanes
    for name, (_, registers) in found.items():
        assert registers[-1] == register, name
    assert ("vscalefps" in found["power"][0]) == ("vreduceps" in found["power"][0]) == (target is AVX512)
    assert "vfmadd231ps" in found["multiply"][0]


@needs_avx2
@pytest.mark.parametrize(
    "tests",
    [
        pytest.param(
            ("tests/engine/simd", "tests/engine/spmm/test_products.py::test_products_and_gradients"), id="few"
        ),
        pytest.param(ALL, id="all", marks=pytest.mark.slow),
    ],
)
def test_kernels_run_with_avx2_alone(tests: tuple[str, ...]) -> None:
    """The same code as by default where the processor has no AVX-512."""
    done = run_pytest(*tests, **AVX2)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]

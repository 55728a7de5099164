"""Rates of devices: interpolation, published peaks, files; and measuring, on every kernel a plan can ask for."""

import json
import math
from pathlib import Path

import pytest
import torch
from cases import case
from tiny import SHAPE, tiny_run

from thinwire.errors import UserError
from thinwire.train import rates
from thinwire.train.plan import measure, microbenchmarks, plan
from thinwire.train.rates import FAMILIES, Device, Sample, find_device, interpolated, machine_name, write_rates

SAMPLES = tuple(Sample(size=(rows, 64), rate=float(rate)) for rows, rate in ((16, 100), (256, 400), (4096, 200)))


def device(**changes: object) -> Device:
    made = Device(
        kind="cpu", measured=True, date="2026-01-02", machine="m", source="s", memory_bytes=10**9, native_bf16=True
    )
    return made.replace(**changes)


def test_rates_are_exact_where_they_were_measured_and_between_elsewhere() -> None:
    for sample in SAMPLES:
        assert interpolated(SAMPLES, sample.size) == pytest.approx(sample.rate, rel=1e-6)
    halfway = interpolated(SAMPLES[:2], (64, 64))
    assert halfway == pytest.approx(math.sqrt(100 * 400))
    near = interpolated(SAMPLES, (20, 64))
    assert 100 < near < 110
    far = interpolated(SAMPLES, (10**6, 10**6))
    assert 200 < far < 300
    assert interpolated(SAMPLES[:1], (10**6, 1)) == pytest.approx(100)


def test_time_is_work_over_rate() -> None:
    kernels = {
        "linear.fp32": (Sample(size=(4, 4, 4), rate=1000.0),),
        "embedding_backward": (Sample(size=(2, 2, 2), rate=10.0),),
    }
    made = device(kernels=kernels)
    assert made.seconds("linear.fp32", (10, 20, 30)) == pytest.approx(2 * 10 * 20 * 30 / 1000)
    assert made.seconds("embedding_backward", (3, 50, 7)) == pytest.approx((3 + 50) * 7 / 10)
    with pytest.raises(UserError, match=r"lack linear\.bf16; measure them again"):
        made.seconds("linear.bf16", (1, 1, 1))


def test_published_peaks_by_hand() -> None:
    peaks = {
        "bf16": 1000.0,
        "fp32": 100.0,
        "memory": 50.0,
        "link": 10.0,
        "arithmetic_share": 0.5,
        "bandwidth_share": 0.2,
    }
    made = device(measured=False, peaks=peaks)
    assert made.seconds("linear.bf16", (2, 3, 4)) == pytest.approx(48 / 500)
    assert made.seconds("linear_backward.fp32", (2, 3, 4)) == pytest.approx(96 / 50)
    assert made.seconds("optimizer", (6,)) == pytest.approx(6 * 7 * 4 / 10), "weight, two moments both ways, gradient"
    assert made.seconds("gelu.bf16", (2, 3)) == pytest.approx(6 * 2 * 2 / 10)
    assert made.seconds("all_reduce", (6,)) == pytest.approx(6 / 2)
    assert made.seconds("attention.bf16", (1, 2, 8, 128)) == pytest.approx(2 * 128 * 2 * 64 / 500)


def test_files_of_rates(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rates.json"
    write_rates(path, "one", device(kernels={"cast": SAMPLES[:1]}))
    write_rates(path, "two", device(kind="cuda"))
    write_rates(path, "one", device(kernels={"cast": SAMPLES}))
    found = rates.read_rates(path)
    assert list(found) == ["one", "two"]
    assert found["one"].kernels["cast"] == SAMPLES
    assert found["two"] == device(kind="cuda")
    assert path.read_text().count('{"size": [') == len(SAMPLES), "a line a sample"
    link = tmp_path / "link.json"
    link.symlink_to(path)
    write_rates(link, "three", device())
    assert link.is_symlink()
    assert list(rates.read_rates(path)) == ["one", "two", "three"]


def test_bad_files_of_rates_are_one_sentence(tmp_path: Path) -> None:
    for text in ["", "[]", '{"a": {"kind": "abacus"}}', '{"a": 3}']:
        with case(text):
            (tmp_path / "r.json").write_text(text)
            with pytest.raises(UserError, match=r"r\.json is not a file of rates: .*\.$"):
                rates.read_rates(tmp_path / "r.json")
            with pytest.raises(UserError, match=r"cannot be read .*; give a file of thinwire doctor"):
                rates.read_rates(tmp_path / "nowhere.json")


def test_sizes_of_another_form_are_refused() -> None:
    made = device(kernels={"linear.fp32": (Sample(size=(4, 4), rate=1.0),)})
    with pytest.raises(UserError, match=r"linear\.fp32 are not at sizes of rows, in, out; measure them again"):
        made.seconds("linear.fp32", (4, 4, 4))


def test_devices_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rates(tmp_path / "r.json", "mine", device())
    write_rates(tmp_path / "r.json", "h200", device(machine="measured here"))
    assert find_device("mine", tmp_path / "r.json") == ("mine", device())
    assert find_device("h200", tmp_path / "r.json")[1].machine == "measured here"
    for name in ("h200", "h100", "a100"):
        found = find_device(name)[1]
        assert not found.measured
        assert "assumed" in found.source
    with pytest.raises(UserError, match=r"no device 'tpu'; give --device as one of h200, h100, a100.*, or measure"):
        find_device("tpu")
    monkeypatch.setattr(rates, "processor_model", lambda: "Abacus 9")
    with pytest.raises(UserError, match=r"Nothing is known about this machine \(abacus-9-\d+core\)"):
        find_device(None)
    write_rates(tmp_path / "r.json", machine_name("Abacus 9", rates.usable_cores()), device())
    assert find_device(None, tmp_path / "r.json")[1] == device()


def test_names_of_machines() -> None:
    assert machine_name("AMD EPYC", 2) == "amd-epyc-2core"
    assert machine_name("Intel(R) Xeon(R) CPU E5-2690 v4 @ 2.60GHz", 8) == "intel-xeon-e5-2690-v4-8core"
    assert machine_name("AMD EPYC 9654 96-Core Processor", 96) == "amd-epyc-9654-96core"
    assert machine_name("NVIDIA H200") == "nvidia-h200"
    assert machine_name("", 1) == "cpu-1core"


def test_docs_show_the_packaged_rates() -> None:
    shown = Path(__file__).parents[2] / "docs/results/rates.json"
    assert shown.read_bytes() == rates.PACKAGED.read_bytes()


@pytest.fixture(scope="module")
def measured() -> tuple[str, Device]:
    return measure.measure_device(quick=True)


def test_every_kernel_of_a_plan_is_measured(measured: tuple[str, Device]) -> None:
    for sink in [False, True]:
        for precision in ["bf16", "fp32"]:
            with case(precision, sink):
                name, found = measured
                assert found.measured
                assert "--quick" in found.source
                assert find_device(name)[0] == name if name in rates.read_rates(rates.PACKAGED) else True
                for changes in (
                    {},
                    {"positions": "added", "bigram": False},
                    {"positions": "concatenated", "active_residual": True},
                ):
                    for run in ({"recompute": True}, {"floor": 0}):
                        shape = SHAPE.replace(vocab_size=300, sink=sink, **changes)
                        made = plan(tiny_run(precision=precision, model=shape, **run), name, found)
                        assert 0 < made.step_seconds < 60
                        assert min(made.seconds.values()) > 0


def test_what_is_measured_has_a_family_and_sizes_of_its_form(measured: tuple[str, Device]) -> None:
    kernels = measured[1].kernels
    assert {kernel.partition(".")[0] for kernel in kernels} == set(FAMILIES) - {"all_reduce"}
    assert set(measure.SIZES) == set(microbenchmarks.BUILDERS)
    for kernel, samples in kernels.items():
        numbers = FAMILIES[kernel.partition(".")[0]].size.count(",") + 1
        assert all(len(sample.size) == numbers for sample in samples)
    for family, sizes in measure.SIZES.items():
        assert len(set(sizes)) == len(sizes)
        assert sizes[0] == min(sizes, key=math.prod), f"{family}: the smallest comes first"
    json.dumps(measured[1].model_dump(), allow_nan=False)


def test_rates_are_amounts_over_times() -> None:
    slow = 0.01

    def wait() -> None:
        end = measure.time.perf_counter() + slow
        while measure.time.perf_counter() < end:
            pass

    refreshed = []
    taken = measure.seconds_a_call([wait, wait], torch.device("cpu"), 0.05, lambda: refreshed.append(1))
    assert slow <= taken < 5 * slow
    assert len(refreshed) >= 3, "one round to warm up and at least two that count, or as long as told"


def test_microbenchmarks_run_the_real_kernels() -> None:
    setting = microbenchmarks.Setting(torch.device("cpu"))
    kept = microbenchmarks.build("abstopk", setting, (8, 32)).forward[0]()
    assert isinstance(kept, torch.Tensor)
    assert (kept.count_nonzero(-1) == 8).all()
    benchmark = microbenchmarks.build("linear", setting, (8, 16, 24))
    assert [tuple(gradient.shape) for gradient in benchmark.backward[0]()] == [(8, 16), (24, 16), (24,)]  # pyright: ignore
    for family in ("projection", "projection_rows", "projection_columns"):
        benchmark = microbenchmarks.build(family, setting, (32 * 32,))
        assert benchmark.refresh is not None
        benchmark.forward[0]()
        benchmark.refresh()
        call = benchmark.forward[0]
        values = call.args[1]  # pyright: ignore
        assert values.count_nonzero() == 32 * 32, "an update moves every entry"
        call()
        assert values.count_nonzero() == (16 if family == "projection" else 4 * 32)


def test_there_is_no_other_device_to_measure() -> None:
    with pytest.raises(UserError, match="no device 'tpu' to measure"):
        measure.measure_device("tpu", quick=True)

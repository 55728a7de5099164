"""Measurement of a device: the time of every kernel of a training step at several sizes.

The rate at a size is that of the fastest of several rounds. A round calls the kernel once on every set of operands. It
keeps all results, as autograd would, and frees them at the end.
"""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import FileStore  # pyright: ignore[reportPrivateImportUsage]
from torch.multiprocessing.spawn import spawn

from thinwire.engine.process_memory import hold_freed_memory, peak_memory
from thinwire.errors import UserError
from thinwire.files import read_text
from thinwire.model.config import ModelConfig
from thinwire.model.precision import native_bf16
from thinwire.progress import Report, silent
from thinwire.train.config import TrainConfig
from thinwire.train.plan.inventory import parameters
from thinwire.train.plan.microbenchmarks import Setting, build, parameter_count
from thinwire.train.rates import (
    BOTH_PRECISIONS,
    FAMILIES,
    Device,
    Sample,
    Size,
    machine_name,
    processor_model,
)
from thinwire.train.step import new_state, train_step

ROUND_SECONDS, QUICK_SECONDS = 0.15, 0.001
"""How long a kernel is measured at one size, at least for two rounds."""
_ROWS = ((512, 32), (512, 256), (2048, 256), (2048, 1024), (2048, 4096), (8192, 1024), (8192, 2048))
_FLAT = (2**8, 2**12, 2**16, 2**18, 2**20, 2**22, 2**24)
_MATRICES = ((256, 256), (256, 1024), (1024, 256), (256, 2048), (512, 512), (512, 2048), (2048, 512), (1024, 1024))
_LARGE = ((1024, 4096), (4096, 1024), (2048, 2048), (2048, 8192))
SIZES: dict[str, Sequence[Size]] = {
    "linear": (
        (256, 32, 128),
        *((2048, *matrix) for matrix in (*_MATRICES, *_LARGE)),
        *((rows, *matrix) for rows in (512, 8192) for matrix in ((256, 256), (256, 1024), (1024, 1024))),
    ),
    **dict.fromkeys(("abstopk", "norm", "gelu", "add"), _ROWS),
    "attention": (
        *((4, 4, 32, 8), (16, 16, 128, 16), (16, 32, 128, 16), (16, 64, 128, 16), (8, 32, 256, 16)),
        *((8, 8, 256, 64), (2, 16, 512, 64)),
    ),
    "attention_sink": ((4, 4, 32, 8), (16, 16, 128, 16), (8, 32, 256, 16), (8, 8, 256, 64)),
    "embedding": ((512, 512, 32), (2048, 2048, 256), (2048, 2048, 1024), (2048, 2048, 2048), (8192, 2048, 2048)),
    "cross_entropy": ((512, 512), (2048, 2048), (8192, 2048)),
    "cast": tuple((entries,) for entries in _FLAT[2:]),
    **dict.fromkeys(("gradient", "optimizer"), ((2**14,), (2**20,), (2**22,), (2**23,), (2**24,), (2**25,))),
    **dict.fromkeys(("projection", "projection_rows", "projection_columns"), tuple((entries,) for entries in _FLAT)),
}
"""Sizes at which each family is measured, the smallest first."""
REDUCED_BYTES = (2**16, 2**20, 2**24, 2**26)
"""Sizes of an all-reduce that are measured, between two processes on the CPU."""
RANKS = 2


def measure_device(kind: str = "cpu", quick: bool = False, report: Report = silent) -> tuple[str, Device]:
    """Name and rates of this machine's processor (`cpu`) or GPU (`cuda`).

    `quick` measures every kernel at its smallest size only, in a few seconds: for a test of the command, not for plans.
    Raises UserError when there is no such device.
    """
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise UserError(f"There is no device '{kind}' to measure here; measure cpu, or cuda where there is a GPU.")
    device = torch.device(kind)
    if not quick:
        hold_freed_memory()  # as training does
    runtime = _runtime_bytes(device)
    plans = [(family, name, size) for family, name in _kernels() for size in SIZES[family][: 1 if quick else None]]
    kernels: dict[str, tuple[Sample, ...]] = {}
    for done, (family, name, size) in enumerate(plans):
        report(done, len(plans), name)
        for kernel, sample in measure_kernel(family, name, device, size, QUICK_SECONDS if quick else ROUND_SECONDS):
            kernels[kernel] = (*kernels.get(kernel, ()), sample)
    if kind == "cpu" and not quick:
        kernels["all_reduce"] = tuple(measure_all_reduce())
    report(len(plans), len(plans), "done")
    return _name(device), Device(
        kind="cpu" if kind == "cpu" else "cuda",
        measured=True,
        date=date.today().isoformat(),
        machine=_describe(device),
        source=f"thinwire doctor --measure{' --quick' if quick else ''}",
        memory_bytes=_memory_bytes(device),
        runtime_bytes=runtime,
        native_bf16=native_bf16(kind),
        kernels=kernels,
    )


def _kernels() -> list[tuple[str, str]]:
    """Families and the names of their kernels: one for each precision that a family computes in."""
    precisions = {family: (".fp32", ".bf16") if family in BOTH_PRECISIONS else ("",) for family in SIZES}
    return [(family, f"{family}{precision}") for family in SIZES for precision in precisions[family]]


def measure_kernel(
    family: str, name: str, device: torch.device, size: Size, seconds: float
) -> list[tuple[str, Sample]]:
    """Samples of a kernel and, where it has one, of its backward pass, with their names."""
    setting = Setting(device, torch.bfloat16 if name.endswith(".bf16") else torch.float32)
    if family in ("gradient", "optimizer"):
        size = (exact_entries(size[0]),)
    benchmark = build(family, setting, size)
    found = [(name, family, seconds_a_call(benchmark.forward, device, seconds, benchmark.refresh))]
    if benchmark.backward:
        backward = f"{family}_backward"
        taken = seconds_a_call(benchmark.backward, device, seconds)
        found.append((name.replace(family, backward, 1), backward, taken))
    return [(kernel, _sample(FAMILIES[kind].amount(*size), taken, size)) for kernel, kind, taken in found]


def _sample(amount: float, seconds: float, size: Size) -> Sample:
    return Sample(size=size, rate=float(f"{amount / seconds:.4g}"))


def exact_entries(entries: int) -> int:
    """The number of parameters of a model with about this many."""
    return sum(parameter.entries for parameter in parameters(parameter_count(entries)))


def seconds_a_call(
    calls: Sequence[Callable[[], object]],
    device: torch.device,
    seconds: float,
    refresh: Callable[[], None] | None = None,
) -> float:
    """Mean time of a call in the fastest round, after a round of warm-up."""
    best, spent, rounds = float("inf"), 0.0, 0
    while rounds < 2 or spent < seconds:
        if refresh is not None:
            refresh()
        _wait(device)
        began = time.perf_counter()
        kept = [call() for call in calls]
        _wait(device)
        taken = time.perf_counter() - began
        del kept
        if rounds:
            best = min(best, taken / len(calls))
            spent += taken
        rounds += 1
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_all_reduce() -> list[Sample]:
    """Samples of a sum over two processes of this machine: bytes that each sends, per second."""
    with tempfile.TemporaryDirectory() as folder:
        store, results = Path(folder) / "store", Path(folder) / "seconds.txt"
        spawn(_reduce, (str(store), str(results)), nprocs=RANKS)
        times = [float(line) for line in read_text(results).split()]
    return [_sample(size, taken, (size,)) for size, taken in zip(REDUCED_BYTES, times, strict=True)]


def _reduce(rank: int, store: str, results: str) -> None:
    dist.init_process_group("gloo", store=FileStore(store, RANKS), rank=rank, world_size=RANKS)
    times = []
    for size in REDUCED_BYTES:
        # a ring of n sends 2 (n - 1) / n of what is summed: with two ranks, just that
        values = torch.ones(size // 4, dtype=torch.float32, device="cpu")
        times.append(seconds_a_call([lambda values=values: dist.all_reduce(values)], torch.device("cpu"), 0.2))
    if rank == 0:
        Path(results).write_text("\n".join(map(str, times)))
    dist.destroy_process_group()


def _runtime_bytes(device: torch.device) -> int:
    """Memory of a process with everything loaded and compiled, measured after a step of a very small model."""
    config = TrainConfig(
        model=ModelConfig(n_layers=1, d_model=16, context=8, vocab_size=16), batch_size=1, floor=0, density=0.5
    )
    state = new_state(config)
    state.to(device)
    train_step(state, torch.zeros(1, 9, dtype=torch.int64, device=device), config)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free
    return peak_memory()


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return machine_name(torch.cuda.get_device_name(device))
    return machine_name(processor_model(), torch.get_num_threads())


def _describe(device: torch.device) -> str:
    built = f"torch {version('torch')}, numba {version('numba')}, {platform.system()}"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {built}"
    return f"{processor_model()}, {torch.get_num_threads()} threads, {built}"

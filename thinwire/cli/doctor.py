"""thinwire doctor: check the installation and this machine."""

import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from thinwire.cli.common import emit, parse, progress
from thinwire.errors import UserError

NEEDED = ("torch", "numpy", "numba", "pydantic", "tyro", "tokenizers", "safetensors", "rich", "matplotlib", "networkx")
DISK_BYTES = 500_000_000
"""Disk space that a quickstart takes, rounded up."""


@dataclass(frozen=True)
class Args:
    """Check the installation and this machine: packages, threads, arithmetic, kernels, disk.

    --measure instead times the kernels of training for `thinwire plan`; that takes a minute or two on an idle machine.
    """

    measure: bool = False
    """Measure the kernel rates of this machine."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("rates.json")
    """File that --measure adds the rates to; rates of other machines in it are kept."""
    device: str = "cpu"
    """Device that --measure measures: cpu or cuda."""
    quick: bool = False
    """With --measure, measure only the smallest sizes, in seconds: a trial of the command, too rough for plans."""
    json: bool = False
    """End stdout with one JSON object."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    ok: bool
    result: str


class Unhealthy(Exception):
    """A part of the installation that thinwire needs does not work."""


def run(argv: Sequence[str]) -> None:
    """Run the verb; exits with 1 when a check fails."""
    args = parse(Args, argv, "doctor")
    if args.quick and not args.measure:
        raise UserError("--quick is for measuring; give --measure with it, or leave it out.")
    if args.measure:
        measure(args)
        return
    findings = [finding(name, check) for name, check in CHECKS.items()]
    table = Table("", "", "")
    for found in findings:
        table.add_row("ok" if found.ok else "BAD", found.name, found.result)
    values = {found.name: {"ok": found.ok, "result": found.result} for found in findings}
    emit({"ok": all(found.ok for found in findings), "findings": values}, args.json, table)
    if not all(found.ok for found in findings):
        sys.exit(1)


def measure(args: Args) -> None:
    """Measure the rates of this machine and write them."""
    from thinwire.artifact import require_file_place
    from thinwire.train.plan.measure import measure_device
    from thinwire.train.rates import read_rates, write_rates

    require_file_place(args.out)
    if args.out.exists():
        read_rates(args.out)  # a damaged file is refused now, not after the measurement
    with progress("measuring kernels") as report:
        name, device = measure_device(args.device, args.quick, report)
    write_rates(args.out, name, device)
    values = {"out": str(args.out), "device": name, "machine": device.machine, "kernels": len(device.kernels)}
    emit(values, args.json)


def finding(name: str, check: Callable[[], str]) -> Finding:
    """Run one check."""
    try:
        return Finding(name, True, check())
    except (Unhealthy, ImportError, PackageNotFoundError, RuntimeError, OSError) as error:
        return Finding(name, False, f"{error}")


def packages() -> str:
    """Versions of the packages that thinwire needs."""
    return ", ".join(f"{name} {version(name)}" for name in NEEDED)


def processor() -> str:
    """Threads, and whether bf16 is native."""
    import torch

    from thinwire.model.precision import native_bf16

    speed = "native bf16" if native_bf16("cpu") else "no native bf16: training runs in fp32, about half as fast"
    return f"{platform.machine()}, {torch.get_num_threads()} threads, {speed}"


def accelerator() -> str:
    """CUDA devices."""
    import torch

    if not torch.cuda.is_available():
        return "none; everything runs on the CPU"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def selection() -> str:
    """Whether the compiled AbsTopK agrees with the plain one, and how much faster it is."""
    import torch

    from thinwire.engine.topk.reference import keep_mask
    from thinwire.engine.topk.select import keep_rows

    x = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
    plain = torch.where(keep_mask(x, 256), x, 0)
    if not torch.equal(keep_rows(x, 256), plain):
        raise Unhealthy("the compiled AbsTopK disagrees with the plain one; reinstall numba")
    return f"exact, {seconds(lambda: keep_mask(x, 256)) / seconds(lambda: keep_rows(x, 256)):.0f}× the plain sort"


def seconds(work: Callable[[], object]) -> float:
    """Shortest time of a few calls, in seconds."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def disk() -> str:
    """Free disk space in the current folder."""
    free = shutil.disk_usage(Path.cwd()).free
    if free < DISK_BYTES:
        raise Unhealthy(f"{free / 1e9:.1f} GB free here and a quickstart takes up to {DISK_BYTES / 1e9:.1f}; free some")
    return f"{free / 1e9:.0f} GB free here"


CHECKS: dict[str, Callable[[], str]] = {
    "python": platform.python_version,
    "packages": packages,
    "processor": processor,
    "accelerator": accelerator,
    "AbsTopK": selection,
    "disk": disk,
}

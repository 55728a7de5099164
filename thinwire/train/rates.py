"""How fast devices are: kernel rates measured at several sizes, or published peaks with stated assumptions.

The rates that come with the package are in `rates.json` beside this file, which `docs/results/rates.json` links to;
`thinwire doctor --measure` measures those of a machine. A kernel is a family of `FAMILIES`, with the arithmetic after a
point where it comes in two (`linear.bf16`). Its time at a size is the size's amount of work over its rate there, which
is interpolated between the nearest measured sizes.
"""

import json
import math
import os
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from thinwire.artifact import make_parents, require_file_place, unwritable, write_text
from thinwire.config import Config, explain
from thinwire.errors import UserError
from thinwire.files import read_text

Size = tuple[int, ...]
PACKAGED = Path(__file__).with_name("rates.json")
"""The rates that come with the package."""


@dataclass(frozen=True)
class Family:
    """A kind of kernel: the meaning of a size, and the amount of work at a size."""

    size: str
    unit: str
    """Unit of the amount of work."""
    amount: Callable[..., float]
    """Amount of work of a size."""
    traffic: float = 0.0
    """Values read or written in memory for each unit of work, if memory bandwidth limits the kernel."""
    flops: Callable[..., float] | None = None
    """Floating-point operations of a size, if arithmetic limits the kernel."""


def _entries(*size: int) -> float:
    return math.prod(size)


def _forward_flops(rows: int, d_in: int, d_out: int) -> float:
    return 2 * rows * d_in * d_out


def _backward_flops(rows: int, d_in: int, d_out: int) -> float:
    return 4 * rows * d_in * d_out


def _pattern(sequences: int, heads: int, length: int, d_head: int) -> float:
    return sequences * heads * length**2


def _gathered(tokens: int, table: int, width: int) -> float:
    return tokens * width


def _scattered(tokens: int, table: int, width: int) -> float:
    return (tokens + table) * width


def _attention_flops(products: int) -> Callable[..., float]:
    # fused kernels leave out the masked half of the pattern: one operation a product, not two; and below 64 channels
    # the softmax takes longer than the products
    return lambda *size: products * _pattern(*size) * max(size[-1], 64)


_MATRIX, _ROWS, _HEADS = "rows, in, out", "rows, width", "sequences, heads, length, d_head"
_TABLE, _FLAT = "tokens, table rows, width", "entries"
FAMILIES: dict[str, Family] = {
    "linear": Family(_MATRIX, "FLOP", _forward_flops, flops=_forward_flops),
    "linear_backward": Family(_MATRIX, "FLOP", _backward_flops, flops=_backward_flops),
    "abstopk": Family(_ROWS, "entries", _entries, traffic=3),
    "abstopk_backward": Family(_ROWS, "entries", _entries, traffic=3),
    "norm": Family(_ROWS, "entries", _entries, traffic=4),
    "norm_backward": Family(_ROWS, "entries", _entries, traffic=8),
    "gelu": Family(_ROWS, "entries", _entries, traffic=2),
    "gelu_backward": Family(_ROWS, "entries", _entries, traffic=3),
    "add": Family(_ROWS, "entries", _entries, traffic=5),
    "add_backward": Family(_ROWS, "entries", _entries, traffic=3),
    "attention": Family(_HEADS, "pattern entries", _pattern, flops=_attention_flops(2)),
    "attention_backward": Family(_HEADS, "pattern entries", _pattern, flops=_attention_flops(5)),
    "attention_sink": Family(_HEADS, "pattern entries", _pattern, flops=_attention_flops(2)),
    "attention_sink_backward": Family(_HEADS, "pattern entries", _pattern, flops=_attention_flops(5)),
    "embedding": Family(_TABLE, "entries", _gathered, traffic=2),
    "embedding_backward": Family(_TABLE, "entries", _scattered, traffic=2),
    "cross_entropy": Family(_ROWS, "entries", _entries, traffic=4),
    "cross_entropy_backward": Family(_ROWS, "entries", _entries, traffic=5),
    "cast": Family(_FLAT, "entries", _entries, traffic=1.5),
    "cast_backward": Family(_FLAT, "entries", _entries, traffic=1.5),
    "gradient": Family(_FLAT, "entries", _entries, traffic=3),
    "optimizer": Family(_FLAT, "entries", _entries, traffic=7),
    "projection": Family(_FLAT, "entries", _entries, traffic=8),
    "projection_rows": Family(_FLAT, "entries", _entries, traffic=12),
    "projection_columns": Family(_FLAT, "entries", _entries, traffic=12),
    "all_reduce": Family("bytes", "bytes", _entries),
}
"""Every family of kernel of a training step. Traffic is that of kernels that read their input once or twice."""
BOTH_PRECISIONS = ("linear", "abstopk", "norm", "gelu", "add", "attention", "attention_sink")
"""Families that compute in bf16 or fp32, as the suffix of a kernel's name says. The others compute in fp32."""


class Sample(Config):
    """The rate of a kernel at one size."""

    size: tuple[Annotated[int, Field(ge=1, le=2**60)], ...]
    """Numbers as the family's `size` names them."""
    rate: float = Field(gt=0)
    """Units of work per second."""


class Peaks(Config):
    """Published peak rates of a device, and the fraction of each that is assumed to be reached."""

    bf16: float = Field(gt=0)
    """Dense matrix products in bf16, FLOP per second."""
    fp32: float = Field(gt=0)
    """The same in fp32."""
    memory: float = Field(gt=0)
    """Bytes per second to and from the device's memory."""
    link: float = Field(gt=0)
    """Bytes per second to other devices, one way."""
    arithmetic_share: float = Field(gt=0, le=1)
    """Part of the peak arithmetic that is assumed."""
    bandwidth_share: float = Field(gt=0, le=1)
    """Part of the peak bandwidths that is assumed."""


class Device(Config):
    """One device: its memory and its rates."""

    kind: Literal["cpu", "cuda"]
    """Which code paths of the model run on it."""
    measured: bool
    """Whether the rates were measured, or assumed from published peaks."""
    date: str
    """Day of the measurement, or of the record."""
    machine: str
    """Processor, threads and versions, in words."""
    source: str
    """Where the rates are from, and what is assumed."""
    memory_bytes: int = Field(ge=1, le=2**60)
    """Memory that a rank can fill."""
    runtime_bytes: int = Field(default=0, ge=0, le=2**60)
    """Memory of a process before there is a model."""
    native_bf16: bool
    """Whether precision `auto` is bf16."""
    kernels: dict[str, tuple[Sample, ...]] = Field(default={})
    """Measured rates, by the kernel's name."""
    peaks: Peaks | None = None
    """Published rates, for kernels that were not measured."""

    def seconds(self, kernel: str, size: Size) -> float:
        """Time of one call. Raises UserError when there is no rate for the kernel."""
        family = FAMILIES[kernel.partition(".")[0]]
        if samples := self.kernels.get(kernel):
            if any(len(sample.size) != len(size) for sample in samples):
                raise UserError(f"The rates of {kernel} are not at sizes of {family.size}; measure them again.")
            return family.amount(*size) / interpolated(samples, size)
        if self.peaks is not None:
            return _from_peaks(self.peaks, kernel, family, size)
        raise UserError(f"The rates of this device lack {kernel}; measure them again with thinwire doctor --measure.")


def interpolated(samples: tuple[Sample, ...], size: Size) -> float:
    """The rate at a size: mean of the logarithms at the nearest samples, weighted by inverse squared distance.

    Distances are between the logarithms of sizes; one sample more than a size has numbers takes part.
    """
    near = sorted((_distance(sample.size, size), sample.rate) for sample in samples)[: len(size) + 1]
    weights = [1 / (distance + 1e-9) for distance, _ in near]
    logs = sum(weight * math.log(rate) for weight, (_, rate) in zip(weights, near, strict=True))
    return math.exp(logs / sum(weights))


def _distance(a: Size, b: Size) -> float:
    return sum(math.log2(max(x, 1) / max(y, 1)) ** 2 for x, y in zip(a, b, strict=True))


def _from_peaks(peaks: Peaks, kernel: str, family: Family, size: Size) -> float:
    precision = kernel.partition(".")[2] or "fp32"
    if family.flops is not None:
        peak = peaks.bf16 if precision == "bf16" else peaks.fp32
        return family.flops(*size) / (peak * peaks.arithmetic_share)
    if kernel == "all_reduce":
        return family.amount(*size) / (peaks.link * peaks.bandwidth_share)
    moved = family.traffic * family.amount(*size) * (2 if precision == "bf16" else 4)
    return moved / (peaks.memory * peaks.bandwidth_share)


def read_rates(path: Path) -> dict[str, Device]:
    """The devices of a file of rates. Raises UserError when it cannot be read."""
    try:
        return TypeAdapter(dict[str, Device]).validate_json(read_text(path))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give a file of thinwire doctor --measure."
        ) from None
    except ValidationError as error:
        raise UserError(f"{path} is not a file of rates: {explain(error)}.") from None


def write_rates(path: Path, name: str, device: Device) -> None:
    """Add or replace a device in a file of rates. Raises UserError when the file cannot be written."""
    require_file_place(path)
    path = path.resolve()  # a link stays a link: the file it points to is written
    devices = (read_rates(path) if path.exists() else {}) | {name: device}
    make_parents(path)
    # unset fields are left out, and each sample takes one line
    entries = {each: json.loads(known.model_dump_json(exclude_defaults=True)) for each, known in devices.items()}
    text = re.sub(r'\{\s*("size"[^}]*)\}', _in_one_line, json.dumps(entries, indent=1))
    try:
        write_text(path, text + "\n")
    except OSError as error:
        raise unwritable(path, error) from None


def _in_one_line(sample: re.Match) -> str:
    return f"{{{' '.join(sample[1].split()).replace('[ ', '[').replace(' ]', ']')}}}"


def find_device(name: str | None, rates: Path | None = None) -> tuple[str, Device]:
    """A device by name, or this machine; `rates` adds a file of rates to the packaged ones.

    Raises UserError, with the names that are known, for any other.
    """
    known: Mapping[str, Device] = read_rates(PACKAGED) | (read_rates(rates) if rates else {})
    wanted = name or machine_name(processor_model(), usable_cores())
    if wanted not in known:
        what = f"There is no device '{wanted}'" if name else f"Nothing is known about this machine ({wanted})"
        remedy = "or measure this machine with thinwire doctor --measure and give --rates"
        raise UserError(f"{what}; give --device as one of {', '.join(known)}, {remedy}.")
    return wanted, known[wanted]


def machine_name(model: str, cores: int | None = None) -> str:
    """Name of a machine in a file of rates, such as `amd-epyc-2core`; without cores, of a GPU."""
    words = re.sub(r"\(r\)|\(tm\)|\bcpu\b|\bprocessor\b|\d+-core\b|@.*", " ", model.lower())
    slug = "-".join(re.findall(r"[a-z0-9.]+", words)) or "cpu"
    return slug if cores is None else f"{slug}-{cores}core"


def processor_model() -> str:
    """The name of the processor."""
    try:
        lines = read_text("/proc/cpuinfo").splitlines()
    except OSError:
        lines = []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

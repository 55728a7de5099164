"""Tensors in safetensors files: written atomically, read whole, and checked to be finite numbers."""

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from thinwire.artifact.write import atomic
from thinwire.errors import UserError
from thinwire.files import open_regular
from thinwire.interrupt import held

UNREADABLE = (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, MemoryError)
"""What reading a damaged file may raise, as a header with absurd shapes."""


@dataclass(frozen=True)
class Tensors:
    """The contents of a file."""

    values: dict[str, Tensor]
    metadata: dict[str, str]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors of any device and layout to a file, atomically; its mode follows the umask."""
    with atomic(path) as temporary:
        save_tensors(temporary, on_cpu(tensors), metadata)


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as a file stores them: their values alone, contiguous, on the CPU."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as `on_cpu` returns them to a file, in place; signals wait until it is written. Raises OSError."""
    with held():
        try:
            save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
        except SafetensorError as error:
            system = re.search(r"\(os error (\d+)\)", str(error))
            number = int(system[1]) if system else errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from None


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A regular file as `safe_open` opens it. Raises any of `UNREADABLE`."""
    open_regular(path).close()
    with held():
        head: Any = safe_open(path, framework="pt")
    with head as file:
        yield file


def read_tensors(path: Path, refusal: str) -> Tensors:
    """All tensors of a file, on the CPU. Raises UserError(refusal) when it is damaged, or where a number is not finite.

    An interruption takes effect after the tensor that is being read.
    """
    values: dict[str, Tensor] = {}
    try:
        with opened(path) as file:
            for name in file.keys():  # noqa: SIM118
                with held():
                    values[name] = file.get_tensor(name)
            metadata = file.metadata() or {}
    except UNREADABLE:
        raise UserError(refusal) from None
    for name, value in values.items():
        if not is_finite(value):
            of = name.removesuffix("/values")
            raise UserError(f"{path} holds numbers that are not finite, in {of}; {refusal.rpartition('; ')[2]}")
    return Tensors(values, metadata)


def is_finite(value: Tensor) -> bool:
    """Whether all numbers of a tensor are finite in float32, in which they are used."""
    return not value.is_floating_point() or bool(value.float().isfinite().all())

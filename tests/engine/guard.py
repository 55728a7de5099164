"""Guard pages: CPU kernels run on arrays that end, and then begin, at memory that may not be touched.

A pytest plugin. `python -m pytest -p tests.engine.guard --guard-log FILE tests/engine/...` runs every call of a kernel
twice, on copies of its arrays: each ends where a page ends, and then begins where one begins, and the pages beside it
may neither be read nor written. An access beyond an array ends the process by a signal; FILE then says which kernel it
was, in which test, with which arguments. Both runs must write the same.

Kernels are found as they are decorated, so this module is imported before them.
"""

import ctypes
import mmap
import os
import pkgutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import thinwire.engine
from thinwire.engine import jit

PAGE = mmap.PAGESIZE
PROT_NONE = 0
KERNELS: dict[str, "GuardedKernel"] = {}
"""All kernels that have been decorated, by module and name."""


def import_kernels() -> None:
    """Import every module of the engine but those for GPUs."""
    for module in pkgutil.walk_packages(thinwire.engine.__path__, "thinwire.engine."):
        if ".gpu" not in module.name:
            import_module(module.name)


class Arena:
    """Copies of arrays between guard pages."""

    def __init__(self, at_end: bool) -> None:
        self.at_end = at_end
        self.copies: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
        """Each array and its copy: one copy for what was one array."""

    def guard(self, argument: Any) -> Any:
        """The argument of a kernel, with copies in place of its arrays."""
        if isinstance(argument, tuple):
            fields = [self.guard(field) for field in argument]
            return type(argument)(*fields) if hasattr(argument, "_fields") else tuple(fields)
        if not isinstance(argument, np.ndarray):
            return argument
        assert argument.flags.c_contiguous, "a kernel was called with an array that is not contiguous"
        key = argument.ctypes.data, *argument.shape, argument.dtype.num
        if key not in self.copies:
            self.copies[key] = argument, self.copy(argument)
        return self.copies[key][1]

    def copy(self, array: np.ndarray) -> np.ndarray:
        """A copy between two pages that may not be touched; an empty array has one on either side, too."""
        size = -(-array.nbytes // PAGE) * PAGE
        memory = mmap.mmap(-1, size + 2 * PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for page in (start, start + PAGE + size):
            if LIBC.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect failed")
        copy = np.ndarray(array.shape, array.dtype, memory, PAGE + (size - array.nbytes if self.at_end else 0))
        copy[...] = array
        return copy


LIBC = ctypes.CDLL(None, use_errno=True)


class GuardedKernel:
    """Runs a kernel between guard pages."""

    log: int | None = None
    """File that the running kernel is written to."""

    def __init__(self, name: str, kernel: Callable[..., Any]) -> None:
        self.name, self.kernel, self.calls = name, kernel, 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        arenas = Arena(at_end=True), Arena(at_end=False)
        results = [self._run(arena, args) for arena in arenas]
        for key, (original, copy) in arenas[0].copies.items():
            if copy.tobytes() != arenas[1].copies[key][1].tobytes():
                raise AssertionError(f"{self.name} writes something else where its arrays lie elsewhere: {show(args)}")
            original[...] = copy
        return results[0]

    def _run(self, arena: Arena, args: tuple[Any, ...]) -> Any:
        if self.log is not None:
            side = "end" if arena.at_end else "begin"
            test = os.environ.get("PYTEST_CURRENT_TEST", "no test").removesuffix(" (call)")
            line = f"{self.name}, whose arrays {side} at a guard page, in {test}: {show(args)}".encode()
            os.ftruncate(self.log, os.pwrite(self.log, line, 0))
        result = self.kernel(*(arena.guard(argument) for argument in args))
        if self.log is not None:
            os.ftruncate(self.log, 0)
        return result


def show(argument: Any) -> str:
    """Shapes of arrays, numbers as they are."""
    if isinstance(argument, tuple):
        return f"({', '.join(map(show, argument))})"
    return f"{argument.dtype}{list(argument.shape)}" if isinstance(argument, np.ndarray) else str(argument)


def guarded(decorator: Callable[..., Any]) -> Callable[..., GuardedKernel]:
    """The decorator of kernels, whose kernels run between guard pages."""

    def decorate(function: Any) -> GuardedKernel:
        name = f"{function.__module__}.{function.__qualname__}"
        KERNELS[name] = GuardedKernel(name, decorator(function))
        return KERNELS[name]

    return decorate


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the running kernel is written to."""
    parser.addoption("--guard-log", type=Path, required=True)


def pytest_configure(config: pytest.Config) -> None:
    """Guard all kernels."""
    install(config.getoption("--guard-log"))
    import_kernels()


def install(log: Path) -> None:
    """Guard all kernels that are decorated from now on; `log` tells which one runs."""
    early = [name for name, module in sys.modules.items() if name.startswith("thinwire.engine.") and module is not jit]
    assert not early, f"imported before the guard: {early}"
    jit.kernel, jit.reassociating_kernel = guarded(jit.kernel), guarded(jit.reassociating_kernel)
    GuardedKernel.log = os.open(log, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

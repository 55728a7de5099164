"""How CPU kernels are compiled: by numba, on first use, cached on disk, on as many threads as torch has."""

import logging
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba
import torch
from numba import config, extending, njit
from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache

logger = logging.getLogger(__name__)
DIGEST = sha256().digest_size
SUMS = {"contract", "reassoc", "nsz"}
"""What may be done to sums of floats so that they vectorize; nothing is assumed about infinities and NaN."""


@cache
def _cache_folder() -> str:
    """Where machine code of this package's kernels is kept: for each state of their sources, a folder of its own.

    By itself numba looks at the file of a kernel alone, and goes on with old code when a part in another file changes.
    """
    own = Path(__file__).parent
    sources = sha256(b"".join(path.read_bytes() for path in sorted(own.rglob("*.py"))))
    return str(own / "__pycache__" / f"kernels-{sources.hexdigest()[:16]}")


class _Files(IndexDataCacheFile):
    """numba's files of machine code, each ending with a checksum: what was damaged would crash the process."""

    def _save_data(self, name: str, data: Any) -> None:
        code = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(code + sha256(code).digest())

    def _load_data(self, name: str) -> Any:
        found = Path(self._data_path(name)).read_bytes()
        code, digest = found[:-DIGEST], found[-DIGEST:]
        return super()._load_data(name) if sha256(code).digest() == digest else None  # numba reads no further

    def _load_index(self) -> Any:
        try:
            return super()._load_index()
        except Exception:  # damaged bytes raise anything; all is compiled again
            return {}


class _Cache(FunctionCache):
    """numba's cache, in which a damaged file counts as none; it says when there is something to compile."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        locator = self._impl.locator
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, locator.get_source_stamp())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = super().load_overload(sig, target_context)
        return _compiling() if found is None else found


class _NoCache(NullCache):
    """Where no folder can be written: every process compiles for itself."""

    def load_overload(self, sig: Any, target_context: Any) -> None:
        _compiling()


@cache
def _compiling() -> None:
    logger.info("Compiling kernels, once for this version: up to a minute.")


def _decorator(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    # a check for division by zero would not vectorize
    compiled: Any = njit(cache=False, nogil=True, error_model="numpy", **options)

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = compiled(function)
        others, config.CACHE_DIR = config.CACHE_DIR, _cache_folder()  # pyright: ignore
        try:
            dispatcher._cache = _Cache(function)
        except RuntimeError:  # numba found no folder
            dispatcher._cache = _NoCache()
        finally:
            config.CACHE_DIR = others  # pyright: ignore
        return dispatcher

    return decorate


kernel = _decorator(parallel=True, fastmath={"contract"})
"""Decorates a function whose `prange` loops run on all threads."""
reassociating_kernel = _decorator(parallel=True, fastmath=SUMS)
"""The same, for kernels that add up along a row."""
device_function = _decorator(fastmath=SUMS, _nrt=False)
"""Decorates a part of a kernel, run by one thread, that makes no array and returns none.

Slices are free in it. Elsewhere each is counted in and out, atomically, which takes longer than a row of 64 numbers.
"""
inline_function = _decorator(fastmath=SUMS, _nrt=False, forceinline=True)
"""The same, for what takes less time than to hand its arguments over."""
no_reassociation = _decorator(fastmath={"contract"}, _nrt=False)
"""The same, for what rounds on purpose: no sum is put in another order."""
allocating = _decorator(fastmath=SUMS)
"""Decorates a part of a kernel that makes or returns arrays."""
intrinsic: Callable[[Callable[..., Any]], Any] = extending.intrinsic
"""Decorates a function that writes its own LLVM code: see `numba.extending.intrinsic`."""


def use_threads() -> None:
    """Give the kernels called next as many threads as torch has."""
    n_threads = torch.get_num_threads()
    wanted = min(n_threads, config.NUMBA_NUM_THREADS)  # pyright: ignore
    if numba.get_num_threads() != wanted:
        numba.set_num_threads(wanted)
    # numba's first call starts threads and sets those of OpenMP, which torch shares, to as many as there are cores:
    # keep to the number torch was given, since waiting for a thread on a busy core costs a time slice a call
    if torch.get_num_threads() != n_threads:
        torch.set_num_threads(n_threads)

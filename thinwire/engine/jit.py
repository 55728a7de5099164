"""How CPU kernels are compiled: by numba, on first use, cached on disk, on as many threads as torch has."""

import logging
from collections.abc import Callable
from functools import cache, wraps
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from threading import RLock
from typing import Any, ClassVar

import numba
import torch
from numba import config, extending, njit
from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    IndexDataCacheFile,
    NullCache,
    UserWideCacheLocator,
)
from numba.misc.appdirs import AppDirs

logger = logging.getLogger(__name__)
DIGEST = sha256().digest_size
THREAD_SAFE = {"omp", "tbb"}
"""Threading layers of numba that several threads may call at once; the others end the process then."""
SUMS = {"contract", "reassoc", "nsz"}
"""What may be done to sums of floats so that they vectorize; nothing is assumed about infinities and NaN."""


@cache
def _sources() -> str:
    """A hash of all files here, with their names.

    By itself numba looks at the file of a kernel alone, and goes on with old code when a part in another file changes.
    """
    own, found = Path(__file__).parent, sha256()
    for path in sorted(own.rglob("*.py")):
        found.update(f"{path.relative_to(own).as_posix()} {path.stat().st_size}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]


@cache
def _cache_folder() -> Path:
    """Where machine code is kept: for each state of the sources a folder of its own.

    It is beside the package, or where that cannot be written, where numba is told to keep its files, or in the user's
    folder for such files.
    """
    elsewhere = config.CACHE_DIR or AppDirs("thinwire", appauthor=False).user_cache_dir  # pyright: ignore
    own, other = (
        folder / f"kernels-{_sources()}" for folder in (Path(__file__).parent / "__pycache__", Path(elsewhere))
    )
    return own if _is_writable(own) else other


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


class _Locator(UserWideCacheLocator):
    """Tells numba the folder."""

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        super().__init__(function, file)
        self._cache_path = str(_cache_folder() / self.get_suitable_cache_subpath(file))


class _InOwnFolder(CompileResultCacheImpl):
    _locator_classes: ClassVar = [_Locator]


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
    """numba's cache, in which a damaged file counts as none; it says when there is something to compile.

    Code of other sources counts as none wherever it lies, since numba can be told to look in other places.
    """

    _impl_class = _InOwnFolder

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp(), _sources()
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, stamp)

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


def _decorator(parallel: bool = False, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    # a check for division by zero would not vectorize
    compiled: Any = njit(cache=False, nogil=True, error_model="numpy", parallel=parallel, **options)

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = compiled(function)
        try:
            dispatcher._cache = _Cache(function)
        except RuntimeError:  # numba found no folder
            dispatcher._cache = _NoCache()
        return _in_turn(function, dispatcher) if parallel else dispatcher

    return decorate


_turn = RLock()
"""Held by the thread that runs a kernel, where threads take turns."""


@cache
def _take_turns() -> bool:
    """Whether only one thread may run kernels at a time; numba chooses the layer when the first kernel runs."""
    return numba.threading_layer() not in THREAD_SAFE  # pyright: ignore


def _in_turn(function: Callable[..., Any], dispatcher: Any) -> Callable[..., Any]:
    """The kernel, which waits for those of other threads where numba cannot run several at once."""
    known = False

    @wraps(function)
    def run(*args: Any) -> Any:
        nonlocal known
        if known and not _take_turns():
            return dispatcher(*args)
        with _turn:
            result = dispatcher(*args)
        known = True
        return result

    return run


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

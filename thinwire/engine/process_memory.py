"""Keeps freed memory in the process, and measures its peak memory."""

import ctypes
import resource
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3) of the GNU C library."""


def hold_freed_memory() -> bool:
    """Have this process keep the memory it frees, for as long as it lives; returns whether the C library can.

    A training step allocates the same buffers again and again, and a fresh page costs more than filling it.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    return bool(library.mallopt(M_MMAP_MAX, 0)) and bool(library.mallopt(M_TRIM_THRESHOLD, -1))


def peak_memory() -> int:
    """Most bytes that were resident at once since this program began."""
    if sys.platform.startswith("linux"):  # getrusage would count what the process held before it became this program
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

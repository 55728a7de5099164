"""Keeping freed memory: the C library otherwise gives large buffers back and fetches them again page by page."""

import ctypes
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

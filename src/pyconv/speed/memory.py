"""Memory that a process keeps from one training step to the next."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

__all__ = ["keep_memory"]

# glibc's mallopt(): parameters, the values that keep all, and those it comes to by itself.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
KEEPING = {MMAP_MAX: 0, TRIM_THRESHOLD: -1}
LARGE, MADV_HUGEPAGE, MADV_NOHUGEPAGE = 2 << 20, 14, 15
USUAL = {MMAP_MAX: 1 << 16, MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 64 << 20}


@contextlib.contextmanager
def keep_memory() -> Iterator[None]:
    """Let this process keep what it frees, for the next step to use, in large pages.

    A step asks for the same memory as the one before it. The C library gives large blocks back to
    the system in between, which clears every page anew: a tenth of a training step on the CPU. What
    a process needs at most stays the same, and all is given back in the end. Without glibc on Linux
    nothing happens.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    for parameter, value in KEEPING.items():
        libc.mallopt(parameter, value)
    start, length = _reserve(libc)
    try:
        yield
    finally:
        for parameter, value in USUAL.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)
        libc.madvise(start, length, MADV_NOHUGEPAGE)


def _glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


def _reserve(libc: ctypes.CDLL) -> tuple[int, int]:
    """Grow the heap by addresses without memory, to be filled by large pages: fewer to look up.

    Where they begin, and how many they are.
    """
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    block = libc.malloc(size)
    if block is None:  # the system promises no more than it has
        return 0, 0
    start = -(-block // LARGE) * LARGE
    length = (block + size - start) // LARGE * LARGE
    libc.madvise(start, length, MADV_HUGEPAGE)
    libc.free(block)
    return start, length

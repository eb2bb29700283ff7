"""Memory: kept from step to step, and of a batch too large for it, parts that fit."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

__all__ = ["Halving", "explain", "kept"]

NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # CUDA, MPS, the CPU

# glibc's mallopt(): parameters, the values that keep all, and those it comes to by itself.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
KEEPING = {MMAP_MAX: 0, TRIM_THRESHOLD: -1}
LARGE, MADV_HUGEPAGE, MADV_NOHUGEPAGE = 2 << 20, 14, 15
USUAL = {MMAP_MAX: 1 << 16, MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 64 << 20}


@contextlib.contextmanager
def kept() -> Iterator[None]:
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


def explain(error: RuntimeError, cure: str, after: str = "") -> str | None:
    """What a failure of PyTorch means to the user; None if it is not one to be expected.

    Args:
        error: The failure.
        cure: What to do where memory ran out.
        after: What to do once a loader process was lost and its cause is gone.
    """
    text = str(error)
    if "DataLoader worker" in text:
        reason = text[text.index("DataLoader worker") :].splitlines()[0].rstrip(" .")
        told = f"A loader process is lost ({reason}). If memory is short, lower --workers. {after}"
        return told.rstrip()
    return f"Memory ran out. {cure}" if is_memory(error) else None


def is_memory(error: RuntimeError) -> bool:
    return any(sign in str(error) for sign in NO_MEMORY)


class Halving:
    """Calls a model on images, in halves, quarters, ... of the batch once memory has run out."""

    def __init__(self, model: Callable[[Tensor], Tensor], fixed: int | None) -> None:
        self.model, self.fixed = model, fixed
        self.limit = fixed  # images at once, if there is one

    def __call__(self, images: Tensor) -> Tensor:
        while True:
            size = min(len(images), self.limit or len(images))
            try:
                return torch.cat([self._part(part) for part in images.split(size)])
            except RuntimeError as error:
                if not is_memory(error):
                    raise
            # Outside of the except block, where the error no longer holds the tensors.
            self._halve(size, images.device)

    def _part(self, images: Tensor) -> Tensor:
        if self.fixed is None:
            return self.model(images)
        missing = (self.limit or self.fixed) - len(images)
        return self.model(F.pad(images, (0, 0) * 3 + (0, missing)))[: len(images)]

    def _halve(self, size: int, device: torch.device) -> None:
        if size == 1:
            raise ValueError(
                f"Not even one image fits into the memory of {device}. Use another --device, a "
                "smaller --crop or --dtype bfloat16."
            )
        self.limit = size // 2
        tqdm.write(
            f"Memory ran out with {size} images at once; going on with {self.limit}.",
            file=sys.stderr,
        )
        if device.type != "cpu":
            torch.accelerator.empty_cache()

"""Kernels of our own for the CPU: the headers beside this file, compiled when first wanted.

They are compiled for the processor at hand by the compiler that ``torch.compile`` uses too, and
kept in its cache. Where there is none, all is computed as PyTorch does it: only slower.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch

__all__ = ["DTYPES", "build", "disabled", "enabled", "load", "version"]

FOLDER = Path(__file__).parent
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}  # and how entries end
_enabled = True
_sources = b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.h")))
_version = f"{hashlib.sha256(_sources).hexdigest()[:16]}-{torch.backends.cpu.get_cpu_capability()}"


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """Train and infer by PyTorch's own kernels: to compare with, or to look for an error."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def enabled() -> bool:
    """Whether the kernels may run: False inside :func:`disabled`."""
    return _enabled


def version() -> str:
    """A string that changes with the kernels, so that no cache gives programs of others."""
    return _version if _enabled else "disabled"


def load(*headers: str) -> ctypes.CDLL | None:
    """The kernels of these headers, compiled for this processor; None where they cannot be."""
    return _compiled(headers) if _enabled else None


@functools.cache
def _compiled(headers: tuple[str, ...]) -> ctypes.CDLL | None:
    _source(headers)  # a file that is missing is not for want of a compiler
    try:
        return build(headers)
    except Exception:  # no compiler, one of another kind, no place to write: all is only slower
        return None


def _source(headers: tuple[str, ...]) -> str:
    return "".join((FOLDER / name).read_text(encoding="utf-8") for name in headers)


def build(headers: tuple[str, ...], *flags: str) -> ctypes.CDLL:
    """Compile headers, in the order in which they build on each other, or take them from the cache.

    Raises:
        Exception: of many kinds, where nothing can be compiled.
    """
    from torch._inductor.codecache import CppCodeCache  # takes a second to import

    source = _source(headers)
    # Numbers are multiplied and added in one rounding, as in every fast convolution.
    compiled: ctypes.CDLL = CppCodeCache.load(source, extra_flags=("-ffp-contract=fast", *flags))
    return compiled

"""Kernels of our own for the CPU: the headers beside this file, compiled when first wanted.

They are compiled for the processor at hand by the compiler that ``torch.compile`` uses too, and
kept with the cache. Where that fails, all is computed as PyTorch does it: only slower.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from ...system.compiling import load

logger: logging.Logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
HEADERS = (
    *("vectors.h", "call.h", "lanes.h", "amx.h", "forward.h"),
    *("grad_weight.h", "grad_input.h", "norms.h", "entries.h"),
)  # in the order in which they build on each other
DTYPES = {torch.float32: "float", torch.bfloat16: "Bfloat16"}  # and what the headers call them
_enabled = True


def _fields(pointers: str = "", numbers: str = "", floats: str = "") -> list[tuple[str, type]]:
    kinds = ((pointers, ctypes.c_void_p), (numbers, ctypes.c_int64), (floats, ctypes.c_double))
    return [(name, kind) for names, kind in kinds for name in names.split()]


class Level(ctypes.Structure):
    """A level of a pyramid, as ``call.h`` has it."""

    _fields_ = _fields("weight bias", "outputs groups height width pad_y pad_x first")


class Call(ctypes.Structure):
    """What the levels of a pyramid are to compute together, as ``call.h`` has it."""

    _fields_ = [
        *_fields(
            "x out",
            "images height width channels out_height out_width out_channels "
            "stride_y stride_x dilation_y dilation_x threads levels",
        ),
        ("level", ctypes.POINTER(Level)),
    ]


class Norm(ctypes.Structure):
    """What a norm is to compute, as ``norms.h`` has it."""

    _fields_ = _fields(
        "x shortcut grad out grad_x grad_shortcut weight bias mean deviation running_mean "
        "running_variance grad_weight grad_bias",
        "rows channels relu threads",
        "epsilon momentum",
    )


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """Train and infer by PyTorch's own kernels: to compare with, or to look for an error."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def available(dtype: torch.dtype = torch.float32) -> bool:
    """Whether the kernels for a dtype may run and can: compiles them if they were not yet."""
    return _enabled and dtype in DTYPES and _compiled(dtype) is not None


def run(entry: str, dtype: torch.dtype, call: ctypes.Structure) -> int:
    """Call a kernel such as ``"forward"``; 0 if it cannot compute this, or there are none."""
    compiled = _compiled(dtype) if _enabled else None
    return 0 if compiled is None else getattr(compiled, entry)(call)


@functools.cache
def _compiled(dtype: torch.dtype) -> ctypes.CDLL | None:
    if os.name != "posix":
        return None
    try:
        return build(dtype)
    except Exception as error:  # whatever it is, all is only slower
        _tell(f"pyconv computes without its own kernels, which is slower: {error}.")
        return None


@functools.cache  # each once, and not for each dtype
def _tell(text: str) -> None:
    logger.warning("%s", text)


def build(dtype: torch.dtype, *flags: str) -> ctypes.CDLL:
    """Compile the kernels for a dtype, or take them from the cache.

    Raises:
        OSError, CompilerError: if they cannot be compiled, kept or loaded; it says why.
    """
    source = "".join((FOLDER / name).read_text(encoding="utf-8") for name in HEADERS)
    what = f"its kernels for {str(dtype).removeprefix('torch.')} on this processor"
    # Numbers are multiplied and added in one rounding, as in every fast convolution.
    compiled = load(what, source, (f"-DNUMBER={DTYPES[dtype]}", "-ffp-contract=fast", *flags))
    for name in ("forward", "grad_weight", "grad_input", "norm_forward", "norm_backward"):
        entry = getattr(compiled, name)
        entry.restype = ctypes.c_int64
        entry.argtypes = [ctypes.POINTER(Norm if name.startswith("norm") else Call)]
    return compiled

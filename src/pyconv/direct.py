"""Several convolutions of one input in one pass over it, by kernels of our own for the CPU.

``kernels/`` says how they work. They are compiled for the processor at hand when they are first
wanted, by the compiler that ``torch.compile`` uses too, and kept in its cache; where there is none
the convolutions are computed as usual, so ``torch.ops.pyconv.direct`` works everywhere.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .lowering import Geometry, is_channels_last, native

__all__ = ["direct", "fits", "library"]

SOURCES = ("call.h", "lanes.h", "tiles.h")  # in the order in which they build on each other
ENTRIES = {torch.float32: "direct_float32", torch.bfloat16: "direct_bfloat16"}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, compiled for this processor; None where they cannot be."""
    folder = Path(__file__).parent / "kernels"
    source = "".join((folder / name).read_text(encoding="utf-8") for name in SOURCES)
    try:
        from torch._inductor.codecache import CppCodeCache

        # Vectors are multiplied and added in one rounding, as in every fast convolution.
        compiled: ctypes.CDLL = CppCodeCache.load(source, extra_flags=("-ffp-contract=fast",))
        for name in ENTRIES.values():
            getattr(compiled, name).restype = ctypes.c_bool
    except Exception:  # no compiler, another kind of it, no place to write: it is only faster
        return None
    return compiled


def direct(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    geometries: Sequence[Geometry],
) -> Tensor:
    """Convolve ``x`` with each weight and concatenate the maps: inference only.

    ``[N, in, H, W]``, levels of ``[out, in / g, *k]`` and ``[out]`` -> ``[N, sum(out), *map]``.
    The levels share stride, dilation and size of their maps.
    """
    first = geometries[0]
    padding = [size for geometry in geometries for size in geometry.padding]
    groups = [geometry.groups for geometry in geometries]
    out: Tensor = torch.ops.pyconv.direct(
        x, weights, biases, first.stride, padding, first.dilation, groups
    )
    return out


def fits(x: Tensor, weights: Sequence[Tensor], geometries: Sequence[Geometry]) -> bool:
    """Whether the kernels can compute this; compiles them if it could be."""
    sizes = [_map(x, w, geometry) for w, geometry in zip(weights, geometries, strict=True)]
    same = {(size, g.stride, g.dilation) for size, g in zip(sizes, geometries, strict=True)}
    if len(same) != 1 or x.device.type != "cpu" or x.dtype not in ENTRIES or not _is_image(x):
        return False
    return _run(x, weights, [None] * len(weights), geometries, None)


def _is_image(x: Tensor) -> bool:
    return x.dim() == 4 and is_channels_last(x) and min(x.shape) > 0


def _map(x: Tensor, weight: Tensor, geometry: Geometry) -> tuple[int, ...]:
    return tuple(
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, p, d, s in zip(
            x.shape[2:],
            weight.shape[2:],
            geometry.padding,
            geometry.dilation,
            geometry.stride,
            strict=True,
        )
    )


def _run(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    geometries: Sequence[Geometry],
    out: Tensor | None,
) -> bool:
    """Call the kernels, or only ask them whether they fit if there is no ``out``."""
    kernels = library()
    if kernels is None:
        return False
    images, channels, height, width = x.shape
    size = _map(x, weights[0], geometries[0])
    numbers = [x.data_ptr() if out is not None else 0, out.data_ptr() if out is not None else 0]
    numbers += [images, height, width, channels, *size, sum(w.shape[0] for w in weights)]
    numbers += [*geometries[0].stride, *geometries[0].dilation, torch.get_num_threads()]
    numbers += [len(weights)]
    first = 0
    for weight, bias, geometry in zip(weights, biases, geometries, strict=True):
        numbers += [weight.data_ptr(), 0 if bias is None else bias.data_ptr(), weight.shape[0]]
        numbers += [geometry.groups, *weight.shape[2:], *geometry.padding, first]
        first += weight.shape[0]
    call = (ctypes.c_int64 * len(numbers))(*numbers)
    return bool(getattr(kernels, ENTRIES[x.dtype])(call))


def _geometries(
    stride: list[int], padding: list[int], dilation: list[int], groups: list[int]
) -> list[Geometry]:
    dims = len(stride)
    return [
        Geometry(g, tuple(stride), tuple(padding[n * dims : (n + 1) * dims]), tuple(dilation))
        for n, g in enumerate(groups)
    ]


OPERATORS = torch.library.Library("pyconv", "FRAGMENT")
OPERATORS.define(
    "direct(Tensor x, Tensor[] weights, Tensor?[] biases, int[] stride, int[] padding, "
    "int[] dilation, int[] groups) -> Tensor"
)


@torch.library.impl(OPERATORS, "direct", "CPU")
def _on_cpu(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor | None],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: list[int],
) -> Tensor:
    geometries = _geometries(stride, padding, dilation, groups)
    if x.dim() == 4 and not is_channels_last(x):
        x = x.contiguous(memory_format=torch.channels_last)
    if fits(x, weights, geometries):
        out = torch.empty(
            (x.shape[0], sum(w.shape[0] for w in weights), *_map(x, weights[0], geometries[0])),
            dtype=x.dtype,
            memory_format=torch.channels_last,
        )
        x = x.contiguous(memory_format=torch.channels_last)
        weights = [w.contiguous() for w in weights]
        if _run(x, weights, biases, geometries, out):
            return out
    return _as_usual(x, weights, biases, stride, padding, dilation, groups)


@torch.library.impl(OPERATORS, "direct", "CompositeExplicitAutograd")
def _as_usual(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor | None],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: list[int],
) -> Tensor:
    levels = zip(weights, biases, _geometries(stride, padding, dilation, groups), strict=True)
    out = torch.cat([native(x, w, b, geometry) for w, b, geometry in levels], 1)
    last = torch.channels_last if x.dim() == 4 else torch.contiguous_format
    return out.contiguous(memory_format=last)


@torch.library.register_fake("pyconv::direct", lib=OPERATORS)
def _shape(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor | None],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: list[int],
) -> Tensor:
    size = _map(x, weights[0], _geometries(stride, padding, dilation, groups)[0])
    out = x.new_empty((x.shape[0], sum(w.shape[0] for w in weights), *size))
    return out.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else out

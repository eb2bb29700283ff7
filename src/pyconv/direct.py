"""Several convolutions of one input in one pass over it, by kernels of our own for the CPU.

``kernels/`` says how they work. Where there are none the convolutions are computed as usual, so
``torch.ops.pyconv.direct`` works everywhere.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, library

from . import kernels
from .lowering import Geometry, native

__all__ = ["HEADERS", "direct", "fits"]

HEADERS = ("vectors.h", "call.h", "lanes.h", "tiles.h")
Biases = Sequence[Tensor | None]
ENTRIES = {torch.float32: "direct_float32", torch.bfloat16: "direct_bfloat16"}


def direct(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    geometries: Sequence[Geometry],
    relu: bool = False,
) -> Tensor:
    """Convolve ``x`` with each weight and concatenate the maps, rectified if asked for.

    For inference only: there is no gradient.

    ``[N, in, H, W]``, levels of ``[out, in / g, *k]`` and ``[out]`` -> ``[N, sum(out), *map]``.
    The levels share stride, dilation and size of their maps.
    """
    first = geometries[0]
    padding = [size for geometry in geometries for size in geometry.padding]
    groups = [geometry.groups for geometry in geometries]
    out: Tensor = torch.ops.pyconv.direct(
        x, weights, biases, first.stride, padding, first.dilation, groups, relu
    )
    return out


def fits(x: Tensor, weights: Sequence[Tensor], geometries: Sequence[Geometry]) -> bool:
    """Whether the kernels can compute this; compiles them if they might."""
    return _ask(x, weights, [], geometries) and _run(x, weights, None, geometries, False, None)


def _ask(
    x: Tensor, weights: Sequence[Tensor], biases: Biases, geometries: Sequence[Geometry]
) -> bool:
    """Whether the kernels may be asked: images of the CPU, one dtype, and maps of one size."""
    tensors = [x, *weights, *(bias for bias in biases if bias is not None)]
    if any(tensor.device.type != "cpu" or tensor.dtype != x.dtype for tensor in tensors):
        return False
    if x.dtype not in ENTRIES or x.dim() != 4 or not x.numel():
        return False
    pairs = list(zip(weights, geometries, strict=True))
    if any(w.shape[1] * g.groups != x.shape[1] or w.shape[0] % g.groups for w, g in pairs):
        return False
    same = {(_map(x, weight, g), g.stride, g.dilation) for weight, g in pairs}
    return len(same) == 1 and min(_map(x, *pairs[0])) > 0


def _map(x: Tensor, weight: Tensor, geometry: Geometry) -> tuple[int, ...]:
    sizes = zip(x.shape[2:], weight.shape[2:], *geometry[1:], strict=True)
    return tuple((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in sizes)


def _run(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None,
    geometries: Sequence[Geometry],
    relu: bool,
    out: Tensor | None,
) -> bool:
    """Whether the kernels fit; they compute if there is an ``out`` to be written to.

    ``x`` and ``out`` are channels-last, the weights contiguous.
    """
    compiled = kernels.load(*HEADERS)
    if compiled is None:
        return False
    images, channels, height, width = x.shape
    first = geometries[0]
    numbers = [0, 0] if out is None else [x.data_ptr(), out.data_ptr()]
    numbers += [images, height, width, channels, *_map(x, weights[0], first)]
    numbers += [sum(weight.shape[0] for weight in weights), *first.stride, *first.dilation]
    numbers += [relu, torch.get_num_threads(), len(weights)]
    start = 0
    for n, (weight, geometry) in enumerate(zip(weights, geometries, strict=True)):
        bias = None if biases is None else biases[n]
        numbers += [weight.data_ptr(), 0 if bias is None else bias.data_ptr(), weight.shape[0]]
        numbers += [geometry.groups, *weight.shape[2:], *geometry.padding, start]
        start += weight.shape[0]
    call = (ctypes.c_int64 * len(numbers))(*numbers)
    return bool(getattr(compiled, ENTRIES[x.dtype])(call))


OPERATORS = library.Library("pyconv", "FRAGMENT")
OPERATORS.define(
    "direct(Tensor x, Tensor[] weights, Tensor?[] biases, int[] stride, int[] padding, "
    "int[] dilation, int[] groups, bool relu) -> Tensor"
)


def _geometries(
    stride: list[int], padding: list[int], dilation: list[int], groups: list[int], *relu: bool
) -> list[Geometry]:
    dims = len(stride)
    return [
        Geometry(g, tuple(stride), tuple(padding[n * dims : (n + 1) * dims]), tuple(dilation))
        for n, g in enumerate(groups)
    ]


def _empty(x: Tensor, weights: Sequence[Tensor], *numbers: Any) -> Tensor:
    size = _map(x, weights[0], _geometries(*numbers)[0])
    layout = torch.channels_last if x.dim() == 4 else torch.contiguous_format
    channels = sum(weight.shape[0] for weight in weights)
    return torch.empty(
        (x.shape[0], channels, *size), dtype=x.dtype, device=x.device, memory_format=layout
    )


def _on_cpu(x: Tensor, weights: Sequence[Tensor], biases: Biases, *numbers: Any) -> Tensor:
    geometries = _geometries(*numbers)
    if _ask(x, weights, biases, geometries):
        out = _empty(x, weights, *numbers)
        last = x.contiguous(memory_format=torch.channels_last)
        weights = [weight.contiguous() for weight in weights]
        biases = [None if bias is None else bias.contiguous() for bias in biases]
        if _run(last, weights, biases, geometries, numbers[4], out):
            return out
    return _as_usual(x, weights, biases, *numbers)


def _as_usual(x: Tensor, weights: Sequence[Tensor], biases: Biases, *numbers: Any) -> Tensor:
    levels = zip(weights, biases, _geometries(*numbers), strict=True)
    maps = [native(x, weight, bias, geometry) for weight, bias, geometry in levels]
    out = _empty(x, weights, *numbers).copy_(torch.cat(maps, 1))
    return out.relu_() if numbers[4] else out


def _on_no_device(x: Tensor, weights: Sequence[Tensor], biases: Biases, *numbers: Any) -> Tensor:
    return _empty(x, weights, *numbers)


OPERATORS.impl("direct", _on_cpu, "CPU")
OPERATORS.impl("direct", _as_usual, "CompositeExplicitAutograd")
library.register_fake("pyconv::direct", _on_no_device, lib=OPERATORS)

"""Several convolutions of one input in one pass over it, by kernels of our own for the CPU.

``kernels/`` says how they work. Where there are none the convolutions are computed as usual, so
``torch.ops.pyconv.direct`` works everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise, zip_longest
from typing import Literal

import torch
from torch import Tensor, library

from ..onednn import Geometry, conv, conv_gradients
from . import kernels
from .kernels import DTYPES

Biases = Sequence[Tensor | None]
Task = Literal["forward", "grad_weight", "grad_input"]  # an entry of the kernels each


def direct(
    x: Tensor, weights: Sequence[Tensor], biases: Biases, geometries: Sequence[Geometry]
) -> Tensor:
    """Convolve ``x`` with each weight and concatenate the maps; it has no gradient.

    ``[N, in, H, W]``, levels of ``[out, in / g, *k]`` and ``[out]`` -> ``[N, sum(out), *map]``.
    The levels share stride, dilation and size of their maps.
    """
    numbers = [n for g in geometries for n in (g.groups, *g.stride, *g.padding, *g.dilation)]
    out: Tensor = torch.ops.pyconv.direct(x, weights, biases, numbers)
    return out


def grad_inputs(
    grad: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    geometries: Sequence[Geometry],
    starts: Sequence[int] = (0,),
) -> Tensor:
    """The gradient of the input through several weights.

    ``starts`` says at which channel of ``grad``, ``[N, channels, *map]``, the map of each begins.
    """
    if _may_ask(x, [*weights, grad], geometries):
        grad = grad.contiguous(memory_format=torch.channels_last)
        weights = [weight.contiguous() for weight in weights]
        found = torch.empty_like(x, memory_format=torch.channels_last)
        if _run("grad_input", found, grad, weights, [], geometries, starts=starts):
            return found
    wanted = (True, False)
    rows = zip(weights, geometries, starts, strict=True)
    maps = [conv_gradients(grad.narrow(1, n, len(w)), x, w, g, wanted)[0] for w, g, n in rows]
    return torch.stack(maps).sum(0)


def grad_weights(
    grad: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    geometries: Sequence[Geometry],
    starts: Sequence[int] = (0,),
) -> list[Tensor]:
    """The gradients of several weights; ``starts`` as for :func:`grad_inputs`."""
    if _may_ask(x, [*weights, grad], geometries):
        x, grad = (t.contiguous(memory_format=torch.channels_last) for t in (x, grad))
        layout = torch.contiguous_format
        found = [torch.empty_like(weight, memory_format=layout) for weight in weights]
        if _run("grad_weight", x, grad, found, [], geometries, starts=starts):
            return found
    wanted = (False, True)
    rows = zip(weights, geometries, starts, strict=True)
    return [conv_gradients(grad.narrow(1, n, len(w)), x, w, g, wanted)[1] for w, g, n in rows]


def fits(
    x: Tensor, weights: Sequence[Tensor], geometries: Sequence[Geometry], task: Task = "forward"
) -> bool:
    """Whether the kernels can compute this; compiles them if they might."""
    return _may_ask(x, weights, geometries) and _run(task, x, None, weights, [], geometries)


def _may_ask(x: Tensor, others: Sequence[Tensor], geometries: Sequence[Geometry]) -> bool:
    """Whether the kernels may be asked: images of the CPU, one dtype, and maps of one size.

    The first of the others are the weights.
    """
    if any(tensor.device.type != "cpu" or tensor.dtype != x.dtype for tensor in (x, *others)):
        return False
    if x.dtype not in DTYPES or x.dim() != 4 or not x.numel():
        return False
    pairs = list(zip(others, geometries, strict=False))
    if any(w.shape[1] * g.groups != x.shape[1] or w.shape[0] % g.groups for w, g in pairs):
        return False
    same = {(_map(x, weight, g), g.stride, g.dilation) for weight, g in pairs}
    return len(same) == 1 and min(_map(x, *pairs[0])) > 0


def _map(x: Tensor, weight: Tensor, geometry: Geometry) -> tuple[int, ...]:
    return geometry.map_size(x.shape[2:], weight.shape[2:])


def _run(
    task: Task,
    x: Tensor,
    out: Tensor | None,
    weights: Sequence[Tensor],
    biases: Biases,
    geometries: Sequence[Geometry],
    starts: Sequence[int] | None = None,
) -> bool:
    """Whether the kernels fit; they compute if there is an ``out``.

    ``x`` and ``out`` are channels-last, the weights contiguous. The maps are written to ``out``;
    of a gradient ``out`` is that of the maps, and ``weights`` are written to. The maps lie one
    behind the other in ``out``, or where ``starts`` says.
    """
    ends = list(accumulate(weight.shape[0] for weight in weights))
    starts = [0, *ends[:-1]] if starts is None else starts
    rows = zip_longest(weights, biases, geometries, starts)
    levels = [
        kernels.Level(
            None if out is None else weight.data_ptr(),  # then it may lie nowhere
            _address(bias),
            weight.shape[0],
            geometry.groups,
            *weight.shape[2:],
            *geometry.padding,
            start,
        )
        for weight, bias, geometry, start in rows
    ]
    images, channels, height, width = x.shape
    first = geometries[0]
    call = kernels.Call(
        None if out is None else x.data_ptr(),
        _address(out),
        *(images, height, width, channels),
        *_map(x, weights[0], first),
        ends[-1] if out is None else out.shape[1],
        *first.stride,
        *first.dilation,
        torch.get_num_threads(),
        len(levels),
        (kernels.Level * len(levels))(*levels),
    )
    return kernels.run(task, x.dtype, call) > 0


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


OPERATORS = library.Library("pyconv", "FRAGMENT")
OPERATORS.define("direct(Tensor x, Tensor[] weights, Tensor?[] biases, int[] numbers) -> Tensor")


def _geometries(x: Tensor, numbers: Sequence[int]) -> list[Geometry]:
    """The geometries that :func:`direct` wrote as numbers."""
    dims = x.dim() - 2
    ends = [0, 1, 1 + dims, 1 + 2 * dims, 1 + 3 * dims]
    rows = [numbers[n : n + ends[-1]] for n in range(0, len(numbers), ends[-1])]
    parts = [[tuple(row[a:b]) for a, b in pairwise(ends)] for row in rows]
    return [Geometry(groups[0], *others) for groups, *others in parts]


def _empty(x: Tensor, weights: Sequence[Tensor], biases: Biases, numbers: Sequence[int]) -> Tensor:
    size = _map(x, weights[0], _geometries(x, numbers)[0])
    layout = torch.channels_last if x.dim() == 4 else torch.contiguous_format
    channels = sum(weight.shape[0] for weight in weights)
    return torch.empty(
        (x.shape[0], channels, *size), dtype=x.dtype, device=x.device, memory_format=layout
    )


def _on_cpu(x: Tensor, weights: Sequence[Tensor], biases: Biases, numbers: Sequence[int]) -> Tensor:
    geometries = _geometries(x, numbers)
    given = [bias for bias in biases if bias is not None]
    if _may_ask(x, [*weights, *given], geometries):
        out = _empty(x, weights, biases, numbers)
        last = x.contiguous(memory_format=torch.channels_last)
        weights = [weight.contiguous() for weight in weights]
        biases = [None if bias is None else bias.contiguous() for bias in biases]
        if _run("forward", last, out, weights, biases, geometries):
            return out
    return _by_pytorch(x, weights, biases, numbers)


def _by_pytorch(
    x: Tensor, weights: Sequence[Tensor], biases: Biases, numbers: Sequence[int]
) -> Tensor:
    levels = zip(weights, biases, _geometries(x, numbers), strict=True)
    maps = [conv(x, weight, bias, geometry) for weight, bias, geometry in levels]
    return _empty(x, weights, biases, numbers).copy_(torch.cat(maps, 1))


OPERATORS.impl("direct", _on_cpu, "CPU")
OPERATORS.impl("direct", _by_pytorch, "CompositeExplicitAutograd")
library.register_fake("pyconv::direct", _empty, lib=OPERATORS)

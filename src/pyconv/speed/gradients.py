"""Grouped convolutions of one input, whose gradients are computed by algorithms of their own.

The algorithm that is fastest forwards is seldom fastest backwards: the gradient of the input is a
convolution from few channels to many, that of the weight a sum over the map. Computed one by one,
the levels of a pyramid would each read the input anew; by the kernels they are computed together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..onednn import Geometry, computed_in, conv, conv_gradients
from .algorithms import (
    NATIVE,
    Algorithm,
    Algorithms,
    collect,
    compute,
    crop,
    group_sums,
    pad_end,
    pointwise_geometry,
    prepare,
    tile_map,
    tiling,
)
from .direct import direct, grad_inputs, grad_weights
from .guard import is_channels_last


def convolve(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    geometries: Sequence[Geometry],
    algorithms: Sequence[Algorithms],
) -> Tensor:
    """``[N, in, *size]``, levels of ``[out, in / g, *k]`` and ``[out]`` -> ``[N, sum(out), *map]``.

    A single native level also takes an input without a batch.
    """
    # By names: some versions of torch.compile cannot compare named tuples.
    if len(weights) == 1 and all(each.name == "native" for each in algorithms[0]):
        return conv(x, weights[0], biases[0], geometries[0])
    # Autocast reaches neither into the gradients nor into kernels of our own.
    tensors = [None if t is None else t.to(computed_in(t)) for t in (x, *weights, *biases)]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        out: Tensor = _Convolutions.apply(tuple(geometries), tuple(algorithms), *tensors)
        return out
    return _forward(geometries, algorithms, *tensors)


def _forward(
    geometries: Sequence[Geometry], algorithms: Sequence[Algorithms], x: Any, *tensors: Any
) -> Tensor:
    count = len(geometries)
    weights, biases, maps, n = tensors[:count], tensors[count:], [], 0
    alike = [(a.forward, g.stride, g.dilation) for a, g in zip(algorithms, geometries, strict=True)]
    while n < count:
        end = n + 1
        while algorithms[n].forward.name == "direct" and end < count and alike[end] == alike[n]:
            end += 1
        if end > n + 1:
            maps.append(direct(x, weights[n:end], biases[n:end], geometries[n:end]))
        else:
            maps.append(compute(x, weights[n], biases[n], geometries[n], algorithms[n].forward))
        n = end
    return torch.cat(maps, 1) if len(maps) > 1 else maps[0]


class _Convolutions(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, geometries: Any, algorithms: Any, x: Tensor, *tensors: Any) -> Tensor:
        ctx.geometries, ctx.algorithms = geometries, algorithms
        ctx.save_for_backward(x, *tensors[: len(geometries)])
        return _forward(geometries, algorithms, x, *tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, *weights = ctx.saved_tensors
        _, _, wants_x, *wants = ctx.needs_input_grad
        if x.dim() == 4 and is_channels_last(x):
            grad = grad.contiguous(memory_format=torch.channels_last)  # once for all
        # There are no kernels for gradients of gradients, and none to compile.
        plain = torch.is_grad_enabled() or torch.compiler.is_compiling() or type(x) is not Tensor
        algorithms = [_without_kernels(each) if plain else each for each in ctx.algorithms]
        sizes = [weight.shape[0] for weight in weights]
        levels = list(zip(weights, ctx.geometries, [0, *accumulate(sizes[:-1])], strict=True))
        by_input = [
            n for n, a in enumerate(algorithms) if wants_x and a.grad_input.name == "direct"
        ]
        by_weight = [
            n for n, a in enumerate(algorithms) if wants[n] and a.grad_weight.name == "direct"
        ]
        grad_xs: list[Any] = []
        grad_ws: list[Any] = [None] * len(weights)
        if by_input:
            grad_xs.append(grad_inputs(grad, x, *zip(*(levels[n] for n in by_input), strict=True)))
        if by_weight:
            found = grad_weights(grad, x, *zip(*(levels[n] for n in by_weight), strict=True))
            for n, gradient in zip(by_weight, found, strict=True):
                grad_ws[n] = gradient
        parts = grad.split(sizes, 1)
        for n, (weight, geometry, _) in enumerate(levels):
            part, (_, one, other) = parts[n], algorithms[n]
            wanted = (wants_x and n not in by_input, wants[n] and n not in by_weight)
            # Without a tuple in a tuple: torch.compile of PyTorch 2.10 cannot compare these.
            if (one.name, one.merge, *one.tile) != (other.name, other.merge, *other.tile):
                a, _ = gradients(part, x, weight, geometry, one, (wanted[0], False))
                _, b = gradients(part, x, weight, geometry, other, (False, wanted[1]))
            else:  # both at once
                a, b = gradients(part, x, weight, geometry, one, wanted)
            grad_xs += [] if a is None else [a]
            grad_ws[n] = grad_ws[n] if b is None else b
        pixels, wants_bias = [0, *range(2, grad.dim())], wants[len(weights) :]
        grad_bs = [p.sum(pixels) if w else None for p, w in zip(parts, wants_bias, strict=True)]
        grad_x = reduce(Tensor.add_, grad_xs) if wants_x else None
        return None, None, grad_x, *grad_ws, *grad_bs


def _without_kernels(algorithms: Algorithms) -> Algorithms:
    return Algorithms(*(NATIVE if each.name == "direct" else each for each in algorithms))


def gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    algorithm: Algorithm,
    wanted: tuple[bool, bool] = (True, True),
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of the input and of the true weight, from that of the output.

    ``[N, out, *map]``, ``[N, in, *size]``, ``[out, in / g, *k]`` -> as ``x`` and as ``weight``;
    None for one that is not wanted.
    """
    if not any(wanted):
        return None, None
    if algorithm.name == "direct":
        grad_x = grad_inputs(grad, x, [weight], [geometry]) if wanted[0] else None
        return grad_x, grad_weights(grad, x, [weight], [geometry])[0] if wanted[1] else None
    prepared, _ = prepare(weight, None, geometry, algorithm)
    if algorithm.name == "depthwise":
        grad_x, grad_prepared = _depthwise_gradients(grad, x, prepared, geometry, wanted)
    else:
        inner = geometry._replace(groups=geometry.groups // algorithm.merge)
        padded = x
        if algorithm.tile:
            layout = tiling(x, prepared, inner, algorithm.tile)
            padded = pad_end(x, layout.missing)
            grad = tile_map(pad_end(grad, layout.beyond), inner.groups, algorithm.tile)
            inner = layout.geometry
        grad_x, grad_prepared = conv_gradients(grad, padded, prepared, inner, wanted)
        grad_x = None if grad_x is None else crop(grad_x, x.shape[2:])
    if grad_prepared is None:
        return grad_x, None
    return grad_x, collect(grad_prepared, weight.shape, geometry, algorithm)


def _depthwise_gradients(
    grad: Tensor, x: Tensor, prepared: Tensor, geometry: Geometry, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    channels = x.shape[1]
    copies = prepared.shape[0] // channels
    ones = group_sums(prepared, copies, geometry).transpose(0, 1)
    maps = conv(grad, ones, None, pointwise_geometry(geometry)).chunk(copies, 1)
    alone = geometry._replace(groups=channels)
    both = [
        conv_gradients(part, x, kernel, alone, wanted)
        for part, kernel in zip(maps, prepared.chunk(copies), strict=True)
    ]
    grad_x = [a for a, _ in both if a is not None]
    grad_weight = [b for _, b in both if b is not None]
    return (
        torch.stack(grad_x).sum(0) if copies > 1 and grad_x else grad_x[0] if grad_x else None,
        torch.cat(grad_weight) if grad_weight else None,
    )

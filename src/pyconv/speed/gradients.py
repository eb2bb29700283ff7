"""A grouped convolution whose gradients are computed by algorithms of their own.

The algorithm that is fastest forwards is seldom fastest backwards: the gradient of the input is a
convolution from few channels to many, that of the weight a sum over the map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..onednn import Geometry, computed_in
from .algorithms import (
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
from .convolution import conv, conv_gradients, is_channels_last
from .direct import grad_inputs, grad_weights

__all__ = ["convolve", "gradients", "gradients_by"]


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, algorithms: Algorithms
) -> Tensor:
    """``[N, in, *size]``, ``[out, in / g, *k]``, ``[out]`` -> ``[N, out, *map]``."""
    if algorithms == Algorithms():
        return conv(x, weight, bias, geometry)
    # Autocast reaches neither into the gradients nor into kernels of our own.
    x, weight = x.to(computed_in(x)), weight.to(computed_in(weight))
    bias = None if bias is None else bias.to(computed_in(bias))
    if not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)):
        return compute(x, weight, bias, geometry, algorithms.forward)
    out: Tensor = _Convolution.apply(x, weight, bias, geometry, algorithms)
    return out


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, algorithms: Algorithms
    ) -> Tensor:
        return compute(x, weight, bias, geometry, algorithms.forward)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.geometry, ctx.algorithms = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        geometry, algorithms = ctx.geometry, ctx.algorithms
        wants_x, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        if x.dim() == 4 and is_channels_last(x):
            grad = grad.contiguous(memory_format=torch.channels_last)  # once for both
        wanted = (wants_x, wants_weight)
        grad_x, grad_w = gradients_by(algorithms, grad, x, weight, geometry, wanted)
        grad_bias = grad.sum([0, *range(2, grad.dim())]) if wants_bias else None
        return grad_x, grad_w, grad_bias, None, None


def gradients_by(
    algorithms: Algorithms,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    wanted: tuple[bool, bool] = (True, True),
) -> tuple[Tensor | None, Tensor | None]:
    """As :func:`gradients`, each in a way of its own."""
    if algorithms.grad_input == algorithms.grad_weight:
        return gradients(grad, x, weight, geometry, algorithms.grad_input, wanted)
    grad_x, _ = gradients(grad, x, weight, geometry, algorithms.grad_input, (wanted[0], False))
    _, grad_w = gradients(grad, x, weight, geometry, algorithms.grad_weight, (False, wanted[1]))
    return grad_x, grad_w


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
        return _direct_gradients(grad, x, weight, geometry, wanted)
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


def _direct_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """There are kernels for both gradients, none for gradients of them, and none to compile."""
    if torch.is_grad_enabled() or type(x) is not Tensor:
        return conv_gradients(grad, x, weight, geometry, wanted)
    grad_x = grad_inputs(grad, x, [weight], [geometry]) if wanted[0] else None
    return grad_x, grad_weights(grad, x, [weight], [geometry])[0] if wanted[1] else None


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

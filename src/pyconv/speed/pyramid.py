"""The levels of a pyramid in training, all at once, forwards and backwards.

Computed one by one, each level reads the input anew, and the gradients that they have on it are
added up in as many passes as there are levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import accumulate, groupby
from typing import Any, cast

import torch
from torch import Tensor

from ..onednn import Geometry, computed_in
from .algorithms import DIRECT, NATIVE, Algorithms, compute
from .direct import direct, grad_inputs, grad_weights
from .gradients import gradients, gradients_by

__all__ = ["convolve_levels"]


def convolve_levels(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    geometries: Sequence[Geometry],
    algorithms: Sequence[Algorithms],
) -> Tensor:
    """``[N, in, H, W]``, levels of ``[out, in / g, *k]`` and ``[out]`` -> ``[N, sum(out), *map]``.

    ``x`` lies channels-last on the CPU.
    """
    # Autocast does not reach into the gradients, so the tensors are cast here.
    tensors = [None if t is None else t.to(computed_in(t)) for t in (x, *weights, *biases)]
    out: Tensor = _Pyramid.apply(tuple(geometries), tuple(algorithms), *tensors)
    return out


class _Pyramid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        geometries: tuple[Geometry, ...],
        algorithms: tuple[Algorithms, ...],
        x: Tensor,
        *tensors: Tensor | None,
    ) -> Tensor:
        count = len(algorithms)
        ctx.geometries, ctx.algorithms = geometries, algorithms
        weights, biases = cast(Any, tensors[:count]), tensors[count:]
        ctx.save_for_backward(x, *weights)
        maps: list[Tensor] = []
        rows = zip(algorithms, geometries, strict=True)
        alike = [(chosen.forward, g.stride, g.dilation) for chosen, g in rows]
        for (algorithm, *_), run in groupby(range(count), alike.__getitem__):
            levels = list(run)
            here = slice(levels[0], levels[-1] + 1)
            if algorithm == DIRECT:
                maps.append(direct(x, weights[here], biases[here], geometries[here]))
            else:
                for weight, bias, geometry in zip(
                    weights[here], biases[here], geometries[here], strict=True
                ):
                    maps.append(compute(x, weight, bias, geometry, algorithm))
        return torch.cat(maps, 1) if len(maps) > 1 else maps[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, *weights = ctx.saved_tensors
        _, _, wants_x, *wants = ctx.needs_input_grad
        grad = grad.contiguous(memory_format=torch.channels_last)
        parts = grad.split([weight.shape[0] for weight in weights], 1)
        if torch.is_grad_enabled():  # a gradient is wanted of the gradient
            rows = zip(parts, weights, ctx.geometries, strict=True)
            both = [gradients(part, x, weight, geometry, NATIVE) for part, weight, geometry in rows]
            grad_x: Tensor | None = torch.stack([a for a, _ in both if a is not None]).sum(0)
            grad_w: list[Tensor | None] = [b for _, b in both]
        else:
            grad_x, grad_w = _gradients(grad, x, weights, ctx.geometries, ctx.algorithms, wants_x)
        grad_b = [
            part.sum((0, 2, 3)) if wanted else None
            for part, wanted in zip(parts, wants[len(parts) :], strict=True)
        ]
        return None, None, grad_x, *grad_w, *grad_b


def _gradients(
    grad: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    geometries: Sequence[Geometry],
    algorithms: Sequence[Algorithms],
    wants_x: bool,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The gradients of the input, if wanted, and of all weights, in one pass where chosen."""
    starts = [0, *accumulate(weight.shape[0] for weight in weights)]

    def levels(
        numbers: list[int],
    ) -> tuple[Sequence[Tensor], Sequence[Geometry], Sequence[int]]:
        rows = [(weights[n], geometries[n], starts[n]) for n in numbers]
        of_weights, of_geometries, of_starts = zip(*rows, strict=True)
        return of_weights, of_geometries, of_starts

    by_weight = [n for n, chosen in enumerate(algorithms) if chosen.grad_weight == DIRECT]
    by_input = [n for n, chosen in enumerate(algorithms) if wants_x and chosen.grad_input == DIRECT]
    grad_w: list[Tensor | None] = [None] * len(algorithms)
    if by_weight:
        together = grad_weights(grad, x, *levels(by_weight))
        for n, gradient in zip(by_weight, together, strict=True):
            grad_w[n] = gradient
    grad_xs = [grad_inputs(grad, x, *levels(by_input))] if by_input else []
    rows = zip(weights, geometries, algorithms, strict=True)
    for n, (weight, geometry, chosen) in enumerate(rows):
        part = grad.narrow(1, starts[n], weight.shape[0])
        wants = (wants_x and n not in by_input, n not in by_weight)
        a, b = gradients_by(chosen, part, x, weight, geometry, wants)
        grad_xs += [] if a is None else [a]
        grad_w[n] = grad_w[n] if b is None else b
    return reduce(Tensor.add_, grad_xs) if wants_x else None, grad_w

"""The levels of a pyramid in training, all at once, forwards and backwards.

Computed one by one, each level reads the input anew, and the gradients that they have on it are
added up in as many passes as there are levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import Any, cast

import torch
from torch import Tensor

from .convolution import Geometry, computed_in
from .direct import add_up, direct, on_weights
from .gradients import Ways, gradients
from .lowering import DIRECT, NATIVE, apply, prepare

__all__ = ["convolve_levels"]


def convolve_levels(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    geometries: Sequence[Geometry],
    ways: Sequence[Ways],
) -> Tensor:
    """``[N, in, H, W]``, levels of ``[out, in / g, *k]`` and ``[out]`` -> ``[N, sum(out), *map]``.

    ``x`` lies channels-last on the CPU.
    """
    # Autocast does not reach into the gradients, so the tensors are cast here.
    tensors = [None if t is None else t.to(computed_in(t)) for t in (x, *weights, *biases)]
    out: Tensor = _Pyramid.apply(tuple(geometries), tuple(ways), *tensors)
    return out


class _Pyramid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        geometries: tuple[Geometry, ...],
        ways: tuple[Ways, ...],
        x: Tensor,
        *tensors: Tensor | None,
    ) -> Tensor:
        count = len(ways)
        ctx.geometries, ctx.ways = geometries, ways
        weights, biases = cast(Any, tensors[:count]), tensors[count:]
        ctx.save_for_backward(x, *weights)
        maps: list[Tensor] = []
        rows = zip(ways, geometries, strict=True)
        alike = [(way.forward, g.stride, g.dilation) for way, g in rows]
        for (way, *_), run in groupby(range(count), alike.__getitem__):
            levels = list(run)
            here = slice(levels[0], levels[-1] + 1)
            if way == DIRECT:
                maps.append(direct(x, weights[here], biases[here], geometries[here]))
            else:
                for weight, bias, geometry in zip(
                    weights[here], biases[here], geometries[here], strict=True
                ):
                    maps.append(apply(x, *prepare(weight, bias, geometry, way), geometry, way))
        return torch.cat(maps, 1) if len(maps) > 1 else maps[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, *weights = ctx.saved_tensors
        _, _, wants_x, *wants = ctx.needs_input_grad
        grad = grad.contiguous(memory_format=torch.channels_last)
        parts = grad.split([weight.shape[0] for weight in weights], 1)
        rows = [*zip(parts, weights, ctx.geometries, ctx.ways, strict=True)]
        if torch.is_grad_enabled():  # a gradient is wanted of the gradient
            both = [gradients(g, x, w, geometry, NATIVE) for g, w, geometry, _ in rows]
            on_x: Tensor | None = torch.stack([a for a, _ in both if a is not None]).sum(0)
            on_w: list[Tensor | None] = [b for _, b in both]
        else:
            on_w = _together(grad, x, ctx.ways, weights, ctx.geometries)
            on_xs = []
            for n, (part, weight, geometry, way) in enumerate(rows):
                same = on_w[n] is None and way.on_input == way.on_weight
                a, b = gradients(part, x, weight, geometry, way.on_input, (wants_x, same))
                if same:
                    on_w[n] = b
                elif on_w[n] is None:
                    _, on_w[n] = gradients(part, x, weight, geometry, way.on_weight, (False, True))
                on_xs += [] if a is None else [a]
            on_x = add_up(on_xs) if wants_x else None
        on_b = [
            part.sum((0, 2, 3)) if wanted else None
            for part, wanted in zip(parts, wants[len(parts) :], strict=True)
        ]
        return None, None, on_x, *on_w, *on_b


def _together(
    grad: Tensor,
    x: Tensor,
    ways: Sequence[Ways],
    weights: Sequence[Tensor],
    geometries: Sequence[Geometry],
) -> list[Tensor | None]:
    """The gradients on the weights that are computed in one pass; None for the others."""
    starts = [0, *accumulate(weight.shape[0] for weight in weights)]
    chosen = [n for n, way in enumerate(ways) if way.on_weight == DIRECT]
    found: list[Tensor | None] = [None] * len(ways)
    if chosen:
        together = on_weights(
            grad,
            x,
            [weights[n] for n in chosen],
            [geometries[n] for n in chosen],
            [starts[n] for n in chosen],
        )
        for n, gradient in zip(chosen, together, strict=True):
            found[n] = gradient
    return found

"""The choice among the equal ways of ``lowering.py``: pinned, by the rule, or by timing."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from ..onednn import HAS_AMX, Geometry, computed_in
from . import kernels, table
from .algorithms import DIRECT, NATIVE, Lowering
from .direct import HEADERS, Task
from .gradients import Ways, convolve
from .problem import Problem, are_direct, problem_of
from .timing import fastest

__all__ = ["autotune", "choose", "choose_all", "grouped_conv"]


class autotune:  # a verb, as torch.no_grad is
    """Time the candidates once per shape, on the spot, instead of asking the rule.

    ``pyconv.autotune(True)`` switches it on for good; ``with pyconv.autotune():`` for a while.
    """

    enabled: bool = False

    def __init__(self, enabled: bool = True) -> None:
        self.before = autotune.enabled
        if enabled:
            # Then torch.compile runs it where it would otherwise trace it. Not said at the
            # function, because it imports the compiler, which takes as long as torch.
            torch.compiler.assume_constant_result(_tuned)
        autotune.enabled = enabled

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        autotune.enabled = self.before


def grouped_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    pinned: Lowering | None = None,
) -> Tensor:
    """``conv`` by the lowering that is pinned, or else chosen: arguments and shapes as there."""
    geometry = Geometry(groups, stride, padding, dilation)
    batched = x.dim() == weight.dim()  # else it is left to PyTorch, pinned or not
    ways = Ways(pinned, pinned, pinned) if pinned and batched else choose(x, weight, geometry)
    return convolve(x, weight, bias, geometry, ways)


# Multiply-adds per image: too few to prepare a weight for in every call. Not per batch, so that
# processes that share a batch compute what one would.
SMALL = 2e6
# On GPUs, where a smaller batch is launch-bound: native launches the fewest kernels.
LEAST_IMAGES = 32
ALL_NATIVE = Ways()


def choose(x: Tensor, weight: Tensor, geometry: Geometry) -> Ways:
    """How to compute one convolution, and its gradients if they will be wanted."""
    size = x.shape[2:]
    if geometry.groups == 1:
        return ALL_NATIVE  # no lane is idle
    if x.dim() != weight.dim() or not all(isinstance(n, int) for n in size):
        return ALL_NATIVE  # an input without a batch, or of a size that an exporter leaves open
    if not autotune.enabled and _stays_native(x, weight):
        return ALL_NATIVE
    problem, batch = problem_of(x, weight, geometry, "forward"), x.shape[0]
    if not torch.is_grad_enabled():
        return Ways(_one(problem, batch))
    return Ways(
        _one(problem, batch),
        _one(problem._replace(mode="grad_input"), batch) if x.requires_grad else NATIVE,
        _one(problem._replace(mode="grad_weight"), batch) if weight.requires_grad else NATIVE,
    )


def _stays_native(x: Tensor, weight: Tensor) -> bool:
    """Whether no rule need be asked; asking takes time as well."""
    if weight.numel() * math.prod(x.shape[2:]) < SMALL:
        return True
    if x.device.type == "cpu":
        return not table.rule_of("cpu")
    if torch.compiler.is_compiling():
        return x.device.type != "cuda"
    return x.shape[0] < LEAST_IMAGES or not table.rule_of(x.device.type)


# Per group: with more, PyTorch's own convolutions keep their vectors busy.
FEW_INPUTS = 16
FEW_OUTPUTS = 4


def choose_all(
    x: Tensor,
    weights: Sequence[Tensor],
    geometries: Sequence[Geometry],
    pinned: Sequence[Lowering | None],
) -> list[Ways]:
    """The ways for the levels of a pyramid: of each as :func:`grouped_conv` would, but for two.

    Where kernels of our own are worth while at all, levels of few inputs are computed together, and
    so are the gradients of the input through those of few outputs; but not in bfloat16 with AMX,
    where PyTorch's own are faster.
    """
    rows = list(zip(weights, geometries, pinned, strict=True))
    ways = [
        Ways(pin, pin, pin) if pin else choose(x, weight, geometry)
        for weight, geometry, pin in rows
    ]
    if not any(DIRECT in way for way in ways):
        return ways
    free = [n for n, pin in enumerate(pinned) if not pin]
    few = [n for n in free if weights[n].shape[1] <= FEW_INPUTS]
    if _fit(x, weights, geometries, few, "forward"):
        for n in few:
            ways[n] = ways[n]._replace(forward=DIRECT)
    few = [n for n in free if weights[n].shape[0] // geometries[n].groups <= FEW_OUTPUTS]
    amx = HAS_AMX and computed_in(x) == torch.bfloat16
    if not amx and _fit(x, weights, geometries, few, "grad_input"):
        for n in few:
            ways[n] = ways[n]._replace(grad_input=DIRECT)
    return ways


def _fit(
    x: Tensor,
    weights: Sequence[Tensor],
    geometries: Sequence[Geometry],
    levels: Sequence[int],
    task: Task,
) -> bool:
    """Whether the kernels can compute these levels together."""
    problems = [problem_of(x, weights[n], geometries[n], task) for n in levels]
    return len(problems) > 1 and are_direct(tuple(problems), task)


def _one(problem: Problem, batch: int) -> Lowering:
    if autotune.enabled:  # for this very size, which to a compiler may be a symbol
        size = tuple(operator.index(n) for n in problem.size)
        return _tuned(tuple(problem._replace(size=size)), operator.index(batch))
    if problem.device != "cpu" and torch.compiler.is_compiling():
        # For maps and batches of any size, for it may be that they are symbols.
        anywhere = problem._replace(size=(0,) * len(problem.size))
        return _ruled_on_gpu(tuple(anywhere), None)
    if problem.device != "cpu":
        return _ruled_on_gpu(tuple(problem), batch)
    # torch.compile sees through all ways but the kernels, and warns of caches, which it ignores.
    if torch.compiler.is_compiling():
        return table.nearest(problem, ours=False)
    return _ruled(problem, kernels.load(*HEADERS) is not None)


_ruled = functools.cache(table.nearest)


def _ruled_on_gpu(fields: tuple[Any, ...], images: int | None) -> Lowering:
    problem = Problem(*fields)
    way = _ruled(problem, False, images) if table.applies(problem) else NATIVE
    return Lowering(*way)  # torch.compile fails on a constant that it knows by another name


# What torch.compiler.assume_constant_result() sets: but that imports the compiler.
_ruled_on_gpu._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _tuned(fields: tuple[Any, ...], batch: int) -> Lowering:
    key = Problem(*fields), batch
    if key not in TIMED:
        TIMED[key] = fastest(*key)
    return Lowering(*TIMED[key])  # see above


TIMED: dict[tuple[Problem, int], Lowering] = {}

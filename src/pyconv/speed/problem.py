"""What a grouped convolution has to compute, and which algorithms may suit it."""

from __future__ import annotations

import functools
import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..onednn import Geometry, computed_in, miscomputed
from .algorithms import DEPTHWISE, DIRECT, NATIVE, Algorithm
from .direct import Task, fits
from .guard import is_channels_last

# What is computed: the output, or one of the gradients; or the output by a weight prepared
# beforehand, which may be exported to where there are no kernels of our own.
Mode = Task | Literal["prepared"]


class Problem(NamedTuple):
    """All that the choice of an algorithm looks at."""

    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    geometry: Geometry
    size: tuple[int, ...]  # of the input's map
    dtype: torch.dtype
    channels_last: bool
    device: str  # its type, such as "cpu"
    mode: Mode

    @property
    def table_key(self) -> str:
        """The part of a table that holds for it, such as ``"float32 channels_last forward"``."""
        # On a GPU float16 goes through the same units as bfloat16, at the same speed.
        half = self.device == "cuda" and self.dtype == torch.float16
        dtype = str(torch.bfloat16 if half else self.dtype).removeprefix("torch.")
        return f"{dtype} {'channels_last' if self.channels_last else 'contiguous'} {self.mode}"

    @property
    def inputs(self) -> int:
        """Input channels per group."""
        return self.in_channels // self.geometry.groups

    @property
    def outputs(self) -> int:
        """Output channels per group."""
        return self.out_channels // self.geometry.groups


def problem_of(x: Tensor, weight: Tensor, geometry: Geometry, mode: Mode) -> Problem:
    """The problem of convolving such an input with such a weight, under autocast or not."""
    return Problem(
        in_channels=weight.shape[1] * geometry.groups,
        out_channels=weight.shape[0],
        kernel=tuple(weight.shape[2:]),
        geometry=geometry,
        size=tuple(x.shape[2:]),
        dtype=computed_in(x),
        channels_last=is_channels_last(x),
        device=x.device.type,
        mode=mode,
    )


TILE_SHAPES: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((2,), (4,), (8,)),
    2: ((2, 1), (2, 2), (4, 1), (4, 2), (4, 4)),
    3: ((1, 2, 1), (1, 2, 2), (2, 2, 2), (1, 4, 2)),
}
MERGES = (1, 2, 4, 8, 16)
MERGES_OF_GPUS = (1, 2, 4, 8, 16, 32, 64)
MOST_OUTPUTS = 32  # of a group as computed; two vectors of float32 are busy then
MOST_ZEROS = 8  # multiply-adds computed for one that is wanted
MOST_ZEROS_OF_HALVES = 16  # AMX has more of them to spare
MOST_INPUTS_OF_GPUS, MOST_OUTPUTS_OF_GPUS = 512, 256  # of a group as computed


def algorithms_for(problem: Problem) -> list[Algorithm]:
    """The algorithms worth timing for a problem, native first."""
    if problem.geometry.groups == problem.in_channels and problem.outputs == 1:
        return [NATIVE]  # depthwise already
    if problem.device != "cpu":
        return _algorithms_on_gpus(problem)
    found = [NATIVE]
    most_zeros = MOST_ZEROS if problem.dtype.itemsize >= 4 else MOST_ZEROS_OF_HALVES
    # The kernels read maps that lie channels-last, but for the gradient of the weight.
    lies = problem.channels_last or problem.mode == "grad_weight"
    if lies and problem.mode != "prepared" and len(problem.kernel) == 2:
        found += [DIRECT] * are_direct((problem,), problem.mode)
    if problem.outputs <= 4 and problem.dtype.itemsize >= 4:  # its sums are rounded
        found.append(DEPTHWISE)
    tiles = TILE_SHAPES[len(problem.kernel)] if problem.geometry.can_tile else ()
    for merge in MERGES:
        for tile in ((), *tiles):
            algorithm = Algorithm("tiled" if tile else "blocked", merge, tile)
            if (
                problem.geometry.groups % merge == 0
                and (merge > 1 or tile)
                and problem.outputs * merge * math.prod(tile) <= MOST_OUTPUTS
                and _zeros(problem, algorithm) <= most_zeros
                and not goes_wrong(problem, algorithm)
            ):
                found.append(algorithm)
    return found


def _algorithms_on_gpus(problem: Problem) -> list[Algorithm]:
    """Tensor cores: zeros cost little, and groups of few channels leave them idle."""
    found = [NATIVE]
    groups = problem.geometry.groups
    for merge in sorted({*MERGES_OF_GPUS, groups}):
        if groups % merge or problem.inputs * merge > MOST_INPUTS_OF_GPUS:
            continue
        if merge > 1:
            found.append(Algorithm("blocked", merge))
        outputs = 4 * problem.outputs * merge
        tiles = problem.geometry.can_tile and len(problem.kernel) == 2
        if tiles and merge in (1, 4, 16, groups) and outputs <= MOST_OUTPUTS_OF_GPUS:
            found.append(Algorithm("tiled", merge, (2, 2)))
    return found


@functools.cache
def are_direct(problems: tuple[Problem, ...], task: Task = "forward") -> bool:
    """Whether the kernels of our own can compute the levels of a pyramid together."""
    x = ones(problems[0], 1, problems[0].in_channels, *problems[0].size)
    weights = [ones(p, p.out_channels, p.inputs, *p.kernel) for p in problems]
    return fits(x, weights, [p.geometry for p in problems], task)


def goes_wrong(problem: Problem, algorithm: Algorithm) -> bool:
    """Whether an algorithm would meet an error of oneDNN, and go round it slowly."""
    geometry, tile = problem.geometry, algorithm.tile or (1,) * len(problem.kernel)
    rows = zip(problem.kernel, tile, geometry.stride, geometry.dilation, strict=True)
    kernel = [k + (t - 1) * s // d for k, t, s, d in rows]
    stride = tuple(s * t for s, t in zip(geometry.stride, tile, strict=True))
    return miscomputed(
        problem.size,
        (problem.out_channels, problem.inputs * algorithm.merge, *kernel),
        geometry._replace(stride=stride),
        problem.dtype,
        problem.device,
        learns=problem.mode == "grad_weight",
    )


def _zeros(problem: Problem, algorithm: Algorithm) -> float:
    """Multiply-adds computed for each that is wanted."""
    ratio = float(algorithm.merge)
    _, stride, _, dilation = problem.geometry
    for k, s, d, t in zip(problem.kernel, stride, dilation, algorithm.tile, strict=False):
        ratio *= (k + (t - 1) * s // d) / k
    return ratio


def ones(problem: Problem, *shape: int) -> Tensor:
    """Constant data as the problem has it: nobody's random state is touched."""
    tensor = torch.ones(shape, dtype=problem.dtype, device=problem.device)
    return tensor.contiguous(memory_format=layout_of(problem))


def layout_of(problem: Problem) -> torch.memory_format:
    dims = len(problem.size)
    if not problem.channels_last or dims == 1:
        return torch.contiguous_format
    return (torch.channels_last, torch.channels_last_3d)[dims - 2]

"""The choice among the equal ways of ``lowering.py``: by a rule measured beforehand, or by timing.

What a choice looks at is a :class:`Problem`. The rule is data: ``rules/`` holds, for each kind of
processor as PyTorch names it, which way was fastest for which shape. :class:`autotune` and
``optimize()`` time the candidates on the spot instead.
"""

from __future__ import annotations

import functools
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from . import kernels
from .convolution import Geometry, computed_in, is_channels_last, miscomputed
from .direct import HEADERS, Task, fits
from .gradients import Ways, convolve, gradients
from .lowering import DIRECT, NATIVE, Lowering, apply, native, prepare
from .machine import processor

__all__ = [
    "Mode",
    "Problem",
    "autotune",
    "candidates",
    "choose_all",
    "fastest",
    "grouped_conv",
    "measure",
    "ones",
    "problem_of",
    "race",
    "rule",
]

# What is computed: the map, with the weight prepared in the call or beforehand; or a gradient.
Mode = Literal["forward", "prepared", "on_input", "on_weight"]


Runner = TypeVar("Runner")


class Problem(NamedTuple):
    """All that the choice of a lowering looks at."""

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
        in_channels=x.shape[1],
        out_channels=weight.shape[0],
        kernel=tuple(weight.shape[2:]),
        geometry=geometry,
        size=tuple(x.shape[2:]),
        dtype=computed_in(x),
        channels_last=is_channels_last(x),
        device=x.device.type,
        mode=mode,
    )


TILES = {
    1: ((2,), (4,), (8,)),
    2: ((2, 1), (2, 2), (4, 1), (4, 2), (4, 4)),
    3: ((1, 2, 1), (1, 2, 2), (2, 2, 2), (1, 4, 2)),
}
MERGES = (1, 2, 4, 8, 16)
MOST_OUTPUTS = 32  # of a group as computed; two vectors of float32 are busy then
MOST_ZEROS = 8  # multiply-adds computed for one that is wanted
MOST_ZEROS_OF_HALVES = 16  # units that multiply matrices have more of them to spare


def candidates(problem: Problem) -> list[Lowering]:
    """The ways worth timing for a problem, native first."""
    if problem.geometry.groups == problem.in_channels and problem.outputs == 1:
        return [NATIVE]  # depthwise already
    found = [NATIVE]
    most_zeros = MOST_ZEROS if problem.dtype.itemsize >= 4 else MOST_ZEROS_OF_HALVES
    if _is_direct(problem):
        found.append(DIRECT)
    if problem.outputs <= 4 and problem.dtype.itemsize >= 4:  # see depthwise() on rounding
        found.append(Lowering("depthwise"))
    tiles = TILES[len(problem.kernel)] if problem.geometry.tiles else ()
    for merge in MERGES:
        for tile in ((), *tiles):
            lowering = Lowering("tiled" if tile else "blocked", merge, tile)
            if (
                problem.geometry.groups % merge == 0
                and (merge > 1 or tile)
                and problem.outputs * merge * math.prod(tile) <= MOST_OUTPUTS
                and _zeros(problem, lowering) <= most_zeros
                and not _miscomputed(problem, lowering)
            ):
                found.append(lowering)
    return found


def _is_direct(problem: Problem) -> bool:
    """Whether the kernels of our own can compute a problem, and are of use there.

    What is prepared is exported as well, to where there are none; what they write is channels-last.
    """
    tasks: dict[Mode, Task] = {"forward": "direct", "on_weight": "gradient"}
    task = tasks.get(problem.mode)
    if task is None or len(problem.kernel) != 2 or (task == "direct" and not problem.channels_last):
        return False
    return _are_direct((problem,), task)


@functools.cache
def _are_direct(problems: tuple[Problem, ...], task: Task = "direct") -> bool:
    """Whether the kernels of our own can compute the levels of a pyramid together."""
    x = ones(problems[0], 1, problems[0].in_channels, *problems[0].size)
    weights = [ones(p, p.out_channels, p.inputs, *p.kernel) for p in problems]
    return fits(x, weights, [p.geometry for p in problems], task)


def _miscomputed(problem: Problem, lowering: Lowering) -> bool:
    """Whether a way would meet an error of oneDNN, and go round it slowly."""
    geometry, tile = problem.geometry, lowering.tile or (1,) * len(problem.kernel)
    rows = zip(problem.kernel, tile, geometry.stride, geometry.dilation, strict=True)
    kernel = [k + (t - 1) * s // d for k, t, s, d in rows]
    stride = tuple(s * t for s, t in zip(geometry.stride, tile, strict=True))
    return miscomputed(
        problem.size,
        (problem.out_channels, problem.inputs * lowering.merge, *kernel),
        geometry._replace(stride=stride),
        problem.dtype,
        problem.device,
    )


def _zeros(problem: Problem, lowering: Lowering) -> float:
    """Multiply-adds computed for each that is wanted."""
    ratio = float(lowering.merge)
    _, stride, _, dilation = problem.geometry
    for k, s, d, t in zip(problem.kernel, stride, dilation, lowering.tile, strict=False):
        ratio *= (k + (t - 1) * s // d) / k
    return ratio


@dataclass(frozen=True)
class Measured:
    """A row of a rule: the fastest way for a shape, written by ``benchmarks/rule.py``."""

    inputs: int  # per group, as outputs
    outputs: int
    kernel: int
    stride: int
    size: int  # of the input's map
    lowering: Lowering
    otherwise: Lowering  # without kernels of our own

    @classmethod
    def of(cls, row: list[Any]) -> Measured:
        """Read ``[inputs, outputs, kernel, stride, size, lowering]``, and the other one if any."""
        ways = [Lowering.parse(way) for way in row[5:]]
        inputs, outputs, kernel, stride, size = row[:5]
        return cls(inputs, outputs, kernel, stride, size, ways[0], ways[-1])

    def octaves_to(self, problem: Problem) -> float:
        """How far a problem is from the one measured, in doublings of its numbers."""
        return sum(
            abs(math.log2(mine / its)) * weight
            for mine, its, weight in (
                (self.inputs, problem.inputs, 1),
                (self.outputs, problem.outputs, 1),
                (self.kernel, max(problem.kernel), 1),
                (self.stride, max(problem.geometry.stride), 1),
                (self.size, max(problem.size) or self.size, 0.5),  # 0: not known
            )
        )


Rule = dict[tuple[torch.dtype, bool, str], list[Measured]]


def read_rule(processor: str) -> Rule:
    """What was measured on a :func:`processor`, such as ``"AVX2"``; nothing on the others."""
    path = Path(__file__).parent / "rules" / f"{processor}.json"
    if not path.exists():
        return {}
    read: Rule = {}
    for key, rows in json.loads(path.read_text(encoding="utf-8"))["fastest"].items():
        dtype, layout, *modes = key.split()
        for mode in modes:
            read[getattr(torch, dtype), layout == "channels_last", mode] = [
                Measured.of(row) for row in rows
            ]
    return read


RULE = read_rule(processor())
NEAR = 2.0  # octaves within which a choice is trusted


def rule(problem: Problem, ours: bool = True) -> Lowering:
    """The way that was fastest for the nearest shape measured; native where none is near.

    ``ours`` says whether kernels of our own may be used.
    """
    best, least = NATIVE, NEAR
    if len(problem.kernel) != 2 or problem.device != "cpu":
        return best
    for row in RULE.get((problem.dtype, problem.channels_last, problem.mode), ()):
        octaves = row.octaves_to(problem)
        if octaves < least:
            best, least = row.lowering if ours else row.otherwise, octaves
    return best if best.fits(problem.geometry) and not _miscomputed(problem, best) else NATIVE


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


def fastest(problem: Problem, batch: int, compiled: bool = False) -> Lowering:
    """The candidate that :func:`measure` finds to be fastest.

    Under torch.compile, tiles are the better ones: their copies melt into their neighbours, and
    those of depthwise do not. Timing each candidate compiled would take minutes.
    """
    times = measure(problem, batch)
    ways = [way for way in times if not (compiled and way.kind == "depthwise")]
    return min(ways, key=times.__getitem__)


def measure(
    problem: Problem,
    batch: int,
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Lowering, float]:
    """Run the candidates in turns and return their median seconds."""
    return race({way: _run(problem, batch, way) for way in candidates(problem)}, rounds, clock)


def race(
    runs: dict[Runner, Callable[[], object]],
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Runner, float]:
    """Call each in turns and return the median seconds that each took."""
    if len(runs) == 1:
        return dict.fromkeys(runs, 0.0)
    for run in runs.values():
        run()  # the first call compiles kernels and allocates
    times: dict[Runner, list[float]] = {key: [] for key in runs}
    for _ in range(rounds):
        for key, run in runs.items():
            synchronize()
            start = clock()
            run()
            synchronize()
            times[key].append(clock() - start)
    return {key: statistics.median(seconds) for key, seconds in times.items()}


def ones(problem: Problem, *shape: int) -> Tensor:
    """Constant data as the problem has it: nobody's random state is touched."""
    tensor = torch.ones(shape, dtype=problem.dtype, device=problem.device)
    return tensor.contiguous(memory_format=_layout(problem))


def _layout(problem: Problem) -> torch.memory_format:
    dims = len(problem.size)
    if not problem.channels_last or dims == 1:
        return torch.contiguous_format
    return (torch.channels_last, torch.channels_last_3d)[dims - 2]


def _run(problem: Problem, batch: int, lowering: Lowering) -> Callable[[], object]:
    """One call as the problem describes it."""
    geometry = problem.geometry
    x = ones(problem, batch, problem.in_channels, *problem.size)
    weight = ones(problem, problem.out_channels, problem.inputs, *problem.kernel)
    prepared = prepare(weight, None, geometry, lowering)[0]
    prepared = prepared.contiguous(memory_format=_layout(problem))
    grad = native(x[:1], weight, None, geometry)
    grad = ones(problem, batch, *grad.shape[1:])

    def run() -> object:
        with torch.autocast(problem.device, enabled=False), torch.no_grad():
            if problem.mode == "prepared":
                return apply(x, prepared, None, geometry, lowering)
            if problem.mode == "forward":
                return apply(x, *prepare(weight, None, geometry, lowering), geometry, lowering)
            wanted = (problem.mode == "on_input", problem.mode == "on_weight")
            return gradients(grad, x, weight, geometry, lowering, wanted)

    return run


def synchronize() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


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
    ways = Ways(pinned, pinned, pinned) if pinned else choose(x, weight, geometry)
    return convolve(x, weight, bias, geometry, ways)


# Multiply-adds per image: too few to prepare a weight for in every call. Not per batch, so that
# processes that share a batch compute what one would.
SMALL = 2e6
PLAIN = Ways()


def choose(x: Tensor, weight: Tensor, geometry: Geometry) -> Ways:
    """How to compute one convolution, and its gradients if they will be wanted."""
    size = x.shape[2:]
    if x.dim() != weight.dim() or not all(isinstance(n, int) for n in size):
        return PLAIN  # an unbatched input, or one whose size an exporter leaves open
    if not autotune.enabled and (not RULE or weight.numel() * math.prod(size) < SMALL):
        return PLAIN
    problem, batch = problem_of(x, weight, geometry, "forward"), x.shape[0]
    if not torch.is_grad_enabled():
        return Ways(_one(problem, batch))
    return Ways(
        _one(problem, batch),
        _one(problem._replace(mode="on_input"), batch) if x.requires_grad else NATIVE,
        _one(problem._replace(mode="on_weight"), batch) if weight.requires_grad else NATIVE,
    )


MOST_INPUTS = 16  # per group: with more, PyTorch's own convolutions keep their vectors busy


def choose_all(
    x: Tensor,
    weights: Sequence[Tensor],
    geometries: Sequence[Geometry],
    pinned: Sequence[Lowering | None],
) -> list[Ways]:
    """The ways for the levels of a pyramid: of each as :func:`grouped_conv` would, but for one.

    Where kernels of our own are worth while at all, levels of few inputs are computed together.
    """
    rows = list(zip(weights, geometries, pinned, strict=True))
    ways = [
        Ways(pin, pin, pin) if pin else choose(x, weight, geometry)
        for weight, geometry, pin in rows
    ]
    if any(DIRECT in way for way in ways):
        few = [n for n, w in enumerate(weights) if not pinned[n] and w.shape[1] <= MOST_INPUTS]
        problems = (problem_of(x, weights[n], geometries[n], "forward") for n in few)
        if len(few) > 1 and _are_direct(tuple(problems)):
            for n in few:
                ways[n] = ways[n]._replace(forward=DIRECT)
    return ways


def _one(problem: Problem, batch: int) -> Lowering:
    if autotune.enabled:
        return _tuned(tuple(problem), batch)
    if torch.compiler.is_compiling():  # which sees through all ways but the kernels
        return rule(problem, ours=False)
    return _ruled(problem, kernels.load(*HEADERS) is not None)


_ruled = functools.cache(rule)  # which torch.compile would only look through, with a warning


def _tuned(fields: tuple[Any, ...], batch: int) -> Lowering:
    key = Problem(*fields), batch
    if key not in TIMED:
        TIMED[key] = fastest(*key)
    return TIMED[key]


TIMED: dict[tuple[Problem, int], Lowering] = {}

"""The choice among equal algorithms: pinned, by the table, or by timing on the spot."""

from __future__ import annotations

import functools
import math
import operator
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..onednn import CONVS, HAS_AMX, Conv, Geometry, computed_in, geometry_of
from . import kernels
from .algorithms import (
    DEPTHWISE,
    DIRECT,
    NATIVE,
    Algorithm,
    Algorithms,
    apply,
    compute,
    prepare,
)
from .direct import Task
from .gradients import gradients
from .guard import is_open
from .problem import Problem, algorithms_for, are_direct, layout_of, ones, problem_of
from .table import is_exact, nearest, table_of

Runner = TypeVar("Runner")


def pin(module: nn.Module, algorithm: str | None) -> None:
    """Compute all grouped levels inside ``module`` in one way: for tests, timing, odd machines.

    Args:
        module: A layer, a block or a whole network.
        algorithm: ``"native"``, ``"direct"``, ``"depthwise"``, ``"blocked:merge=4"``,
            ``"tiled:2x2"`` or ``"tiled:2x2:merge=2"``; None leaves the choice to the library again.

    Raises:
        ValueError: if there is no such algorithm, or a level cannot be computed by it; then
            nothing is pinned.
    """
    wanted = None if algorithm is None else Algorithm.parse(algorithm)
    levels = {name: m for name, m in module.named_modules() if type(m) in CONVS and m.groups > 1}
    for name, level in levels.items():
        if wanted is not None and not wanted.fits(geometry_of(level)):
            raise ValueError(
                f"{name or 'the level'} ({level}) cannot be computed as {algorithm!r}: its groups "
                "must be a multiple of merge, the tile needs one size per dimension of the map, "
                "and the stride must be a multiple of the dilation. Pin the other levels one by "
                "one, or 'native'."
            )
    for level in levels.values():
        level.pinned_algorithm = wanted


def pinned(level: Conv) -> Algorithm | None:
    """The algorithm that :func:`pin` gave a level, if any."""
    found: Algorithm | None = vars(level).get("pinned_algorithm")
    return found


class autotune(AbstractContextManager[None]):  # a verb, as torch.no_grad is
    """Time the algorithms once per shape, on the spot, instead of asking the table.

    ``pyconv.speed.autotune(True)`` switches it on for good; ``with autotune():`` for a while.
    """

    enabled: bool = False

    def __init__(self, enabled: bool = True) -> None:
        self.before: bool = autotune.enabled
        autotune.enabled = enabled

    def __exit__(self, *error: object) -> None:
        autotune.enabled = self.before


# Multiply-adds per image: too few to prepare a weight for in every call. Not per batch, so that
# processes that share a batch compute what one would.
SMALL = 2e6
# On GPUs, where a smaller batch is launch-bound: native launches the fewest kernels.
LEAST_IMAGES = 64
ALL_NATIVE = Algorithms()


def choose(x: Tensor, weight: Tensor, geometry: Geometry) -> Algorithms:
    """How to compute one convolution, and its gradients if they will be wanted."""
    if geometry.groups == 1 or not suits(x, weight, geometry):
        return ALL_NATIVE  # no lane is idle
    problem, batch = problem_of(x, weight, geometry, "forward"), x.shape[0]
    if not autotune.enabled:  # that is for this very size, which to a compiler may be a symbol
        if is_open(problem.size):
            problem = problem._replace(size=(0,) * len(problem.size))
        if _stays_native(problem, x, weight):
            return ALL_NATIVE
    if not torch.is_grad_enabled():
        return Algorithms(_one(problem, batch))
    return Algorithms(
        _one(problem, batch),
        _one(problem._replace(mode="grad_input"), batch) if x.requires_grad else NATIVE,
        _one(problem._replace(mode="grad_weight"), batch) if weight.requires_grad else NATIVE,
    )


def suits(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether an input has a batch and the channels wanted; PyTorch knows what else to do."""
    return x.dim() == weight.dim() and x.shape[1] == weight.shape[1] * geometry.groups


def _stays_native(problem: Problem, x: Tensor, weight: Tensor) -> bool:
    """Whether no table need be asked; asking takes time as well."""
    if 0 < weight.numel() * math.prod(problem.size) < SMALL:
        return True
    if x.device.type == "cpu":
        return not table_of("cpu")
    if torch.compiler.is_compiling():
        return x.device.type != "cuda"
    return x.shape[0] < LEAST_IMAGES or not table_of(x.device.type)


# Per group: with more, PyTorch's own convolutions keep their vectors busy.
FEW_INPUTS = 16
FEW_OUTPUTS = 4


def choose_all(
    x: Tensor,
    weights: Sequence[Tensor],
    geometries: Sequence[Geometry],
    pins: Sequence[Algorithm | None],
) -> list[Algorithms]:
    """The algorithms for the levels of a pyramid: of each as :func:`choose` says, but for two.

    Where kernels of our own are worth while at all, levels of few inputs are computed together, and
    so are the gradients of the input through those of few outputs; but not in bfloat16 with AMX,
    where PyTorch's own are faster.
    """
    rows = list(zip(weights, geometries, pins, strict=True))
    found = [
        Algorithms(pin, pin, pin) if pin else choose(x, weight, geometry)
        for weight, geometry, pin in rows
    ]
    if not any(DIRECT in algorithms for algorithms in found):
        return found
    free = [n for n, pin in enumerate(pins) if not pin]
    together: dict[Task, list[int]] = {
        "forward": [n for n in free if weights[n].shape[1] <= FEW_INPUTS],
        "grad_input": [n for n in free if len(weights[n]) <= FEW_OUTPUTS * geometries[n].groups],
    }
    if HAS_AMX and computed_in(x) == torch.bfloat16:
        del together["grad_input"]
    for task, few in together.items():
        problems = tuple(problem_of(x, weights[n], geometries[n], task) for n in few)
        if len(few) > 1 and are_direct(problems, task):
            for n in few:
                found[n] = found[n]._replace(**{task: DIRECT})
    return found


def _one(problem: Problem, batch: int) -> Algorithm:
    compiling = torch.compiler.is_compiling()
    if autotune.enabled:
        size = tuple(operator.index(n) for n in problem.size)
        return _tuned(tuple(problem._replace(size=size)), operator.index(batch), compiling)
    is_known, on_cpu = max(problem.size) > 0, problem.device == "cpu"
    if compiling and not on_cpu:  # for maps of any size
        problem = problem._replace(size=(0,) * len(problem.size))
    ours = on_cpu and not compiling and kernels.available(problem.dtype)
    found = _by_table(tuple(problem), ours)
    return found if is_known or not found.tile else NATIVE  # tiles are laid out by the size


@functools.cache
def _known(problem: Problem, ours: bool) -> Algorithm:
    return nearest(problem, table_of(problem.device), ours)


def _by_table(fields: tuple[Any, ...], ours: bool) -> Algorithm:
    problem = Problem(*fields)
    exact = problem.device != "cpu" and is_exact(problem.dtype)
    found = NATIVE if exact else _known(problem, ours)
    return Algorithm(*found)  # torch.compile fails on a constant that it knows by another name


def _tuned(fields: tuple[Any, ...], batch: int, compiling: bool) -> Algorithm:
    key = Problem(*fields), batch, compiling
    if key not in TIMED:
        TIMED[key] = fastest(*key)
    return Algorithm(*TIMED[key])  # see above


# What torch.compiler.assume_constant_result() sets, so that torch.compile runs them where it would
# trace them; but that imports the compiler, which takes as long as torch.
vars(_by_table)["_dynamo_marked_constant"] = True
vars(_tuned)["_dynamo_marked_constant"] = True

TIMED: dict[tuple[Problem, int, bool], Algorithm] = {}


def fastest(problem: Problem, batch: int, compiled: bool = False) -> Algorithm:
    """The algorithm that :func:`measure` finds to be fastest.

    Under torch.compile, tiles are the better ones: their copies melt into their neighbours, and
    those of depthwise do not. It runs no kernel of our own in training. Timing each algorithm
    compiled would take minutes.
    """
    times = measure(problem, batch)
    left_out = (DEPTHWISE, DIRECT) if compiled else ()
    return min((one for one in times if one not in left_out), key=times.__getitem__)


def measure(
    problem: Problem,
    batch: int,
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Algorithm, float]:
    """Run the algorithms in turns and return their median seconds."""
    runs = {one: _run(problem, batch, one) for one in algorithms_for(problem)}
    if problem.device == "cpu":
        return race(runs, rounds, clock)
    # Without cuDNN's own search, which takes up to a second for each algorithm.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False):
        return race(runs, rounds, clock, BURST)


# A GPU works asynchronously, so calls are timed in bursts between synchronisations; what is so many
# times slower than the best after two rounds is dropped.
BURST, HOPELESS = 4, 3.0


def race(
    runs: dict[Runner, Callable[[], object]],
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
    burst: int = 1,
) -> dict[Runner, float]:
    """Call each in turns, so many times in a row, and return the median seconds of a call."""
    if len(runs) == 1:
        return dict.fromkeys(runs, 0.0)
    for run in runs.values():
        run()  # the first call compiles kernels and allocates
    times: dict[Runner, list[float]] = {key: [] for key in runs}
    hopeful = dict(runs)
    for number in range(rounds):
        for key, run in hopeful.items():
            _synchronize()
            start = clock()
            for _ in range(burst):
                run()
            _synchronize()
            times[key].append((clock() - start) / burst)
        if burst > 1 and number:
            fastest_ever = {key: min(seconds) for key, seconds in times.items()}
            limit = HOPELESS * min(fastest_ever.values())
            hopeful = {key: run for key, run in runs.items() if fastest_ever[key] < limit}
    return {key: statistics.median(seconds) for key, seconds in times.items()}


def _run(problem: Problem, batch: int, algorithm: Algorithm) -> Callable[[], object]:
    """One call as the problem describes it."""
    geometry = problem.geometry
    x = ones(problem, batch, problem.in_channels, *problem.size)
    weight = ones(problem, problem.out_channels, problem.inputs, *problem.kernel)
    prepared = prepare(weight, None, geometry, algorithm)[0]
    prepared = prepared.contiguous(memory_format=layout_of(problem))
    size = geometry.map_size(problem.size, problem.kernel)
    grad = ones(problem, batch, problem.out_channels, *size)

    def run() -> object:
        with torch.autocast(problem.device, enabled=False), torch.no_grad():
            if problem.mode == "prepared":
                return apply(x, prepared, None, geometry, algorithm)
            if problem.mode == "forward":
                return compute(x, weight, None, geometry, algorithm)
            wanted = (problem.mode == "grad_input", problem.mode == "grad_weight")
            return gradients(grad, x, weight, geometry, algorithm, wanted)

    return run


def _synchronize() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()

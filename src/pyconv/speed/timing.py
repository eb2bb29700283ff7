"""The algorithms timed on the spot."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from .algorithms import DEPTHWISE, DIRECT, Algorithm, apply, compute, prepare
from .gradients import gradients
from .problem import Problem, algorithms_for, layout_of, ones

__all__ = ["fastest", "measure", "race"]

Runner = TypeVar("Runner")


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
    with _unsearched():
        return race(runs, rounds, clock, BURST)


@contextlib.contextmanager
def _unsearched() -> Iterator[None]:
    """Without cuDNN's own search, which takes up to a second for each algorithm."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


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
            synchronize()
            start = clock()
            for _ in range(burst):
                run()
            synchronize()
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
    grad = ones(
        problem,
        batch,
        problem.out_channels,
        *geometry.map_size(problem.size, problem.kernel),
    )

    def run() -> object:
        with torch.autocast(problem.device, enabled=False), torch.no_grad():
            if problem.mode == "prepared":
                return apply(x, prepared, None, geometry, algorithm)
            if problem.mode == "forward":
                return compute(x, weight, None, geometry, algorithm)
            wanted = (problem.mode == "grad_input", problem.mode == "grad_weight")
            return gradients(grad, x, weight, geometry, algorithm, wanted)

    return run


def synchronize() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()

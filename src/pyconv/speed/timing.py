"""The ways timed on the spot."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from .algorithms import Lowering, apply, native, prepare
from .gradients import gradients
from .problem import Problem, candidates, layout_of, ones

__all__ = ["fastest", "measure", "race"]

Runner = TypeVar("Runner")


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
    runs = {way: _run(problem, batch, way) for way in candidates(problem)}
    if problem.device == "cpu":
        return race(runs, rounds, clock)
    with _unsearched():
        return race(runs, rounds, clock, BURST)


@contextlib.contextmanager
def _unsearched() -> Iterator[None]:
    """Without cuDNN's own search, which takes up to a second for each way."""
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


def _run(problem: Problem, batch: int, lowering: Lowering) -> Callable[[], object]:
    """One call as the problem describes it."""
    geometry = problem.geometry
    x = ones(problem, batch, problem.in_channels, *problem.size)
    weight = ones(problem, problem.out_channels, problem.inputs, *problem.kernel)
    prepared = prepare(weight, None, geometry, lowering)[0]
    prepared = prepared.contiguous(memory_format=layout_of(problem))
    grad = native(x[:1], weight, None, geometry)
    grad = ones(problem, batch, *grad.shape[1:])

    def run() -> object:
        with torch.autocast(problem.device, enabled=False), torch.no_grad():
            if problem.mode == "prepared":
                return apply(x, prepared, None, geometry, lowering)
            if problem.mode == "forward":
                return apply(x, *prepare(weight, None, geometry, lowering), geometry, lowering)
            wanted = (problem.mode == "grad_input", problem.mode == "grad_weight")
            return gradients(grad, x, weight, geometry, lowering, wanted)

    return run


def synchronize() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()

"""Compare timings fairly on a machine that others use: in turns, by medians of paired ratios.

times = alternate({"before": f, "after": g}, rounds=15)
ratio(times["before"], times["after"])  # 2.0: after takes half the time of before
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch


def alternate(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Call all runs once per round, forwards and backwards in turn: seconds, one per round."""
    for run in runs.values():
        run()
        run()  # the second still allocates
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        names = list(runs) if number % 2 == 0 else list(reversed(runs))
        for name in names:
            _synchronize()
            start = clock()
            runs[name]()
            _synchronize()
            times[name].append(clock() - start)
    return times


def ratio(before: Sequence[float], after: Sequence[float]) -> float:
    """How many times as fast ``after`` is: the median of the ratios of the rounds."""
    return statistics.median(b / a for b, a in zip(before, after, strict=True))


def _synchronize() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()

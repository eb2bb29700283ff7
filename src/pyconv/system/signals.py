"""Signals and other reasons to stop: noted first, and acted on where all processes agree."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import commands
from .processes import World

__all__ = ["SIGNALS", "Stop", "handling", "noting"]

TIME_LIMIT, TERMINATED = 124, 143  # exit codes, as of timeout(1) and of shells
SIGNALS = {signal.SIGINT: commands.INTERRUPTED, signal.SIGTERM: TERMINATED}


@contextmanager
def handling(
    numbers: Sequence[signal.Signals], act: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Within, signals call ``act``. Only in the main thread: Python allows it in no other."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, act) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def noting(*numbers: signal.Signals) -> Iterator[list[signal.Signals]]:
    """Within, the first signal is only noted in the list; a second one has its usual effect."""
    before = {number: signal.getsignal(number) for number in numbers}
    noted: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(signal.Signals(number))
        signal.signal(number, before[noted[-1]])

    with handling(numbers, note):
        yield noted


class Stop:
    """The request to stop, of any process: a signal, a time limit, or the end of its parent.

    Args:
        world: The processes.
        noted: The signals noted so far, as :func:`noting` gives them.
        seconds: The time limit, from now; None for none.
    """

    def __init__(
        self, world: World, noted: Sequence[signal.Signals], seconds: float | None = None
    ) -> None:
        self.world = world
        self.noted = noted
        self.end: float | None = None if seconds is None else time.monotonic() + seconds
        self.parent: int = os.getppid()
        self.flag: Tensor | None = None
        self.pending: Any = None

    def _own(self) -> int:
        """The exit code that this process would leave with now; 0 to go on."""
        if self.noted:
            return SIGNALS[self.noted[0]]
        if self.end is not None and time.monotonic() >= self.end:
            return TIME_LIMIT
        return TERMINATED if self.world.several and os.getppid() != self.parent else 0

    def agreed(self) -> int:
        """The exit code that all processes leave with after this step; 0 to go on.

        Every process calls it once a step. It does not wait: it returns what any process knew at
        the step before, so that all leave after the same step.
        """
        if not self.world.several:
            return self._own()
        code = self.settle()
        if not code:
            self.flag = torch.tensor(self._own())
            self.pending = dist.all_reduce(self.flag, dist.ReduceOp.MAX, async_op=True)
        return code

    def settle(self) -> int:
        """Finish the exchange under way; the exit code that it gives, 0 without one."""
        if self.pending is None or self.flag is None:
            return 0
        self.pending.wait()
        self.pending = None
        return int(self.flag)

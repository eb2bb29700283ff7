"""Processes that share one job: who each is, how they agree, how one machine starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from . import cli

__all__ = ["World", "interruptible", "join_world", "launch", "usable_cores"]

T = TypeVar("T")

PATIENCE = timedelta(days=1)  # for the slowest; a process that dies is noticed at once
GRACE = 10.0  # seconds that the others have to end by themselves once one has failed


@dataclass(frozen=True)
class World:
    """The processes of a job, as one of them sees them; by default it is alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of this machine

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks, on every one of them."""
        values: list[T | None] = [value]
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]  # every place has been filled

    def together(self, action: Callable[[], T]) -> T:
        """Do something on every process; if it fails on one, all stop and the first rank says why.

        Raises:
            ValueError: on the first rank, with what went wrong.
            SystemExit: on the others.
        """
        result, error = None, None
        try:
            result = action()
        except (ValueError, OSError) as failure:
            error = failure
        problems = self.gather(None if error is None else str(error))
        first = next((problem for problem in problems if problem is not None), None)
        if first is None:
            return result  # type: ignore[return-value]  # nothing failed
        if self.rank > 0:
            sys.exit(cli.WRONG)
        raise error or ValueError(first)


@contextmanager
def join_world() -> Iterator[World]:
    """Meet the other processes that torchrun, or :func:`launch`, has started."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    # Only a few counts are exchanged, so gloo serves whatever device computes.
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()


def launch(module: str, argv: Sequence[str], processes: int) -> int:
    """Run ``python -m module`` in several processes on this machine, as torchrun would.

    Returns:
        0 if all end well, else the first other exit code.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    shared = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is here, no rank need host it
    }
    shared.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    children: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(processes):
            children.append(
                subprocess.Popen(
                    [sys.executable, "-m", module, *argv],
                    env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    start_new_session=True,  # Ctrl-C comes here, and is passed on once
                )
            )
        return _watch(children)
    finally:
        for child in children:
            child.terminate()  # nothing happens to one that has ended
            child.wait()


def _watch(children: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all, or a little for the rest once one has failed; pass interruptions on."""
    deadline = float("inf")
    while True:
        try:
            codes = [child.poll() for child in children]
            bad = [code for code in codes if code]
            if None not in codes or time.monotonic() > deadline:
                return bad[0] if bad and bad[0] > 0 else cli.FAILED if bad else cli.DONE
            if any(code != cli.INTERRUPTED for code in bad):
                deadline = min(deadline, time.monotonic() + GRACE)
            time.sleep(0.05)
        except KeyboardInterrupt:
            for child in children:
                child.send_signal(signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within, a first Ctrl-C is only noted, for a loop to ask after; a second one interrupts."""
    came = False

    def note(number: int, frame: object) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, before)


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

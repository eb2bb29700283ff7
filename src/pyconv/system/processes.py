"""Processes that share one job: how they start, meet, agree, stop, and end together.

The means are PyTorch's own (torch.distributed, torch.multiprocessing); a job in one process needs
none of them and takes the same path.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from . import commands
from .devices import choose_device, local_processes
from .processor import usable_cores

__all__ = [
    "SIGNALS",
    "LostProcessError",
    "SharedError",
    "Stop",
    "World",
    "is_started",
    "joined",
    "launch",
    "noting",
    "processes",
]

TIME_LIMIT, TERMINATED = 124, 143  # as timeout(1) and shells report them
SIGNALS = {signal.SIGINT: commands.INTERRUPTED, signal.SIGTERM: TERMINATED}
MEETING = "PYCONV_MEETING"  # in the environment of launched processes: the file where they meet
CPU = torch.device("cpu")
GRACE = 10.0  # seconds that the others have to end by themselves once one has failed

T = TypeVar("T")


class LostProcessError(ConnectionError):
    """Another process of the job is gone."""


class SharedError(SystemExit):
    """A process failed with ``__cause__``: the first one says so, the others leave in silence."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(commands.exit_code(cause))
        self.__cause__ = cause


@dataclass(frozen=True)
class World:
    """The processes of a job, as one of them sees them; by default it is alone."""

    rank: int = 0
    size: int = 1

    @property
    def several(self) -> bool:
        return self.size > 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks, on every one of them."""
        values: list[Any] = [value]
        if self.several:
            values = [None] * self.size
            dist.all_gather_object(values, value)
        return values

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, on the CPU in float64."""
        values = values.detach().double().cpu()
        if self.several:
            dist.all_reduce(values)
        return values

    def spread(self, tensors: Iterator[Tensor]) -> None:
        """Give every process the first one's values."""
        if self.several:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    def on_first(self, act: Callable[[], T]) -> T:
        """Act in the first process alone, and give every process the result.

        Raises:
            SharedError: if it fails; the first process raises what it failed with.
        """
        if not self.several:
            return act()
        outcome: list[Any] = list(_attempt(act)) if self.first else [None, None]
        dist.broadcast_object_list(outcome, src=0, device=CPU)
        self._agree(outcome[1])
        result: T = outcome[0]
        return result

    def on_all(self, act: Callable[[], T]) -> T:
        """Act in every process; if one fails, all do.

        Raises:
            SharedError: if one fails; the first process raises what the first of them failed with.
        """
        result, failure = _attempt(act)
        failures = [each for each in self.gather(failure) if each is not None]
        self._agree(failure or next(iter(failures), None))
        return result  # type: ignore[return-value]  # nothing failed

    def _agree(self, failure: Exception | None) -> None:
        if failure is not None:
            raise failure if self.first else SharedError(failure)


def _attempt(act: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return act(), None
    except Exception as error:
        return None, error


def is_started() -> bool:
    """Whether :func:`launch`, torchrun or the like has started this process."""
    return "WORLD_SIZE" in os.environ


@contextmanager
def joined(device: torch.device = CPU, patience: timedelta | None = None) -> Iterator[World]:
    """Meet the other processes that were started, if any.

    Args:
        device: What tensors are exchanged from.
        patience: How long to wait for the slowest; default PyTorch's. That a process has died is
            noticed at once.

    Raises:
        LostProcessError: if the connection to another process breaks inside.
    """
    meets = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    if meets:
        _meet(device, patience)
    ended = False
    try:
        several = dist.is_initialized()
        yield World(dist.get_rank(), dist.get_world_size()) if several else World()
        ended = True
    except RuntimeError as error:
        if not dist.is_initialized() or not _is_connection(error):
            raise
        raise LostProcessError("another process of this run is gone, so this one ends") from error
    finally:
        # After a failure NCCL may wait for others that are gone; gloo's threads may abort the exit.
        if meets and (ended or device.type == "cpu"):
            dist.destroy_process_group()


def _meet(device: torch.device, patience: timedelta | None) -> None:
    """Meet the other processes, as RANK and WORLD_SIZE say."""
    # Imported within, as by a compiler, it keeps the group among its defaults: gloo's threads then
    # outlive it and may abort the exit.
    import torch.distributed.nn.functional

    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        init_method=os.environ.get(MEETING),
        timeout=patience,
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() // local_processes()))


def _is_connection(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in text or "nccl" in text


@contextmanager
def handling(
    numbers: Sequence[signal.Signals], act: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Within, signals do something else than before; Python allows it in the main thread alone."""
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
    """Within, a first signal is only noted, in the list; a second one has its usual effect."""
    before = {number: signal.getsignal(number) for number in numbers}
    noted: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(signal.Signals(number))
        signal.signal(number, before[noted[-1]])

    with handling(numbers, note):
        yield noted


class Stop:
    """The wish to stop, of any process: a signal, a time limit, or the end of who started it.

    ``seconds`` counts from the construction.
    """

    def __init__(
        self, world: World, noted: Sequence[signal.Signals], seconds: float | None = None
    ) -> None:
        self.world, self.noted = world, noted
        self.end = None if seconds is None else time.monotonic() + seconds
        self.parent = os.getppid()
        self.flag: Tensor | None = None
        self.pending: Any = None

    def _own(self) -> int:
        if self.noted:
            return SIGNALS[self.noted[0]]
        if self.end is not None and time.monotonic() >= self.end:
            return TIME_LIMIT
        return TERMINATED if self.world.several and os.getppid() != self.parent else 0

    def agreed(self) -> int:
        """The exit code that all processes leave with after this step, or 0 to go on.

        Every process calls it once a step. Nobody waits for it: what is returned is what was
        known to any process at the step before, so all leave after the same step.
        """
        if not self.world.several:
            return self._own()
        code = self.settle()
        if not code:
            self.flag = torch.tensor(self._own())
            self.pending = dist.all_reduce(self.flag, dist.ReduceOp.MAX, async_op=True)
        return code

    def settle(self) -> int:
        """Finish the exchange under way; what it says."""
        if self.pending is None or self.flag is None:
            return 0
        self.pending.wait()
        self.pending = None
        return int(self.flag)


def processes(wanted: str | None, device: str | None, *, shared: bool = False) -> int:
    """How many processes to start: a number, or ``gpu`` for one per GPU; 1 for none but this one.

    Raises:
        ValueError: if ``wanted`` is neither, or there are fewer GPUs and none may be shared.
    """
    if wanted is None or is_started():
        return 1
    gpus = torch.cuda.device_count()
    if wanted == "gpu":
        if not gpus:
            raise ValueError("--nproc-per-node gpu: PyTorch sees no GPU. Give a number instead.")
        return gpus
    if not wanted.isdecimal() or int(wanted) < 1:
        raise ValueError(f"--nproc-per-node {wanted!r} must be a number or gpu.")
    if not shared and choose_device(device).type == "cuda" and int(wanted) > gpus:
        raise ValueError(
            f"--nproc-per-node {wanted}: there are {gpus} GPUs. Start one process per GPU."
        )
    return int(wanted)


def launch(
    command: Callable[[list[str]], int],
    argv: Sequence[str] | None,
    count: int,
    cure: str = "Run the same command again.",
) -> int:
    """Run a command in several processes of this machine; the exit code of the first that fails.

    Where a process dies the others are ended too. SIGTERM and SIGINT are passed on, so that all
    can leave in order.

    Raises:
        LostProcessError: if a signal ended one of them; it says the ``cure``.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()

        def pass_on(number: int, frame: FrameType | None) -> None:
            for process in context.processes:
                if process.is_alive() and process.pid is not None:
                    os.kill(process.pid, number)

        with contextlib.ExitStack() as after:
            noted = after.enter_context(noting(signal.SIGINT))  # until there is whom to tell
            with _held_back():
                context = start_processes(
                    _child, (_importable(command), words, count, meeting), count, join=False
                )
            after.enter_context(handling(tuple(SIGNALS), pass_on))
            for number in noted:
                pass_on(number, None)
            try:
                while not context.join(grace_period=GRACE):
                    pass
            except ProcessExitedException as error:
                if error.signal_name is None:
                    return error.exit_code
                raise LostProcessError(
                    f"process {error.error_index} of {count} was ended by "
                    f"{error.signal_name}, so all were. {cure}"
                ) from error
    return commands.DONE


def _importable(command: Callable[[list[str]], int]) -> Callable[[list[str]], int]:
    """A function of the module that runs as ``__main__``, which is another one in a new process."""
    spec = sys.modules["__main__"].__spec__
    if command.__module__ != "__main__" or spec is None:
        return command
    found: Callable[[list[str]], int] = getattr(
        importlib.import_module(spec.name), command.__name__
    )
    return found


@contextmanager
def _held_back() -> Iterator[None]:
    """Processes started within take note of Ctrl-C, but only once they let it through.

    Else it would hit their imports, which know no better than to print a traceback.
    """
    resource_tracker.ensure_running()  # where it starts later, it lets signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _child(
    index: int, command: Callable[[list[str]], int], words: list[str], processes: int, meeting: str
) -> None:
    os.environ |= {
        "RANK": str(index),
        "WORLD_SIZE": str(processes),
        "LOCAL_RANK": str(index),
        "LOCAL_WORLD_SIZE": str(processes),
        MEETING: meeting,
    }
    os.setsid()  # Ctrl-C reaches the launcher alone, which passes it on once
    # Processes that this one starts in its turn, such as those of a loader, start as they do
    # elsewhere, and not by importing everything again.
    multiprocessing.set_start_method(None, force=True)
    try:
        # A shell's "&" has Ctrl-C ignored, but what the launcher passes on was meant.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    except KeyboardInterrupt:
        raise SystemExit(commands.INTERRUPTED) from None
    raise SystemExit(command(words))

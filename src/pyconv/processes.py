"""One training in several processes: how they start, share, agree to stop, and end together.

The engine is PyTorch's own (torch.distributed, torch.multiprocessing); a training in one process
needs none of it and takes the same path.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from . import cli

__all__ = [
    "Group",
    "LostProcessError",
    "SharedError",
    "Stop",
    "default_device",
    "joined",
    "launch",
    "local_processes",
]

TIME_LIMIT, TERMINATED = 124, 143  # as timeout(1) and shells report them
SIGNALS = {signal.SIGINT: cli.INTERRUPTED, signal.SIGTERM: TERMINATED}

T = TypeVar("T")


class LostProcessError(ConnectionError):
    """Another process of the training is gone."""


class SharedError(Exception):
    """The first process failed with ``__cause__`` and says so; the others leave in silence."""


class Group:
    """The processes that train together; ``rank`` 0 is the one that writes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.several = dist.is_initialized()
        self.rank = dist.get_rank() if self.several else 0
        self.size = dist.get_world_size() if self.several else 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def on_first(self, act: Callable[[], T]) -> T:
        """Act in the first process alone, and give every process the result, or the failure."""
        if not self.several:
            return act()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = act()
            except Exception as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
        if outcome[1] is not None:
            if self.first:
                raise outcome[1]
            raise SharedError from outcome[1]
        result: T = outcome[0]
        return result

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


class Stop:
    """The wish to stop, of any process: a signal, a time limit, or the end of who started it.

    A first SIGINT or SIGTERM is noted, a second one has its usual effect. ``seconds`` counts from
    the construction.
    """

    def __init__(self, group: Group, seconds: float | None = None) -> None:
        self.group, self.wish = group, 0
        self.end = None if seconds is None else time.monotonic() + seconds
        self.parent = os.getppid()
        self.flag: Tensor | None = None
        self.pending: Any = None

    def __enter__(self) -> Stop:
        self.handlers = {}
        if threading.current_thread() is threading.main_thread():
            self.handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.wish = self.wish or SIGNALS[signal.Signals(number)]
        signal.signal(number, self.handlers[signal.Signals(number)])

    def _own(self) -> int:
        if self.wish:
            return self.wish
        if self.end is not None and time.monotonic() >= self.end:
            return TIME_LIMIT
        return TERMINATED if self.group.several and os.getppid() != self.parent else 0

    def agreed(self) -> int:
        """The exit code that all processes leave with after this step, or 0 to go on.

        Every process calls it once a step. Nobody waits for it: what is returned is what was
        known to any process at the step before, so all leave after the same step.
        """
        if not self.group.several:
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


def local_processes() -> int:
    """How many processes of this training share the machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def default_device(wanted: str | None) -> torch.device:
    """The device of this process; of several GPUs, each process takes its own.

    Raises:
        ValueError: if there is no such device.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    try:
        device = torch.device(wanted or found or "cpu")
    except RuntimeError:
        raise ValueError(f"There is no device {wanted!r}. Try cpu or cuda.") from None
    if device.type != "cpu" and (found is None or found.type != device.type):
        raise ValueError(f"--device {device}: PyTorch sees no such device. Try --device cpu.")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if device.index >= torch.cuda.device_count():
            raise ValueError(
                f"There are {torch.cuda.device_count()} GPUs for {local_processes()} processes. "
                "Start at most one process per GPU, or use --device cpu."
            )
        torch.cuda.set_device(device)
    return device


@contextmanager
def joined(device: torch.device) -> Iterator[Group]:
    """The group of this process: that of :func:`launch` or torchrun, or itself alone.

    Raises:
        LostProcessError: if the connection to another process breaks inside.
    """
    started = "WORLD_SIZE" in os.environ and not dist.is_initialized()
    if started:
        join(device)
    try:
        yield Group(device)
    except RuntimeError as error:
        if not dist.is_initialized() or not _is_connection(error):
            raise
        raise LostProcessError(
            "another process of this training is gone, so this one ends"
        ) from error
    else:
        if started:
            dist.destroy_process_group()


def join(device: torch.device, init_method: str | None = None) -> None:
    """Meet the other processes, as RANK and WORLD_SIZE say."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, init_method=init_method, rank=rank, world_size=size)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_processes()))


def _is_connection(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in text or "nccl" in text


def launch(
    command: Callable[[list[str]], int], argv: list[str], processes: int, device: str | None
) -> int:
    """Run a command in several processes of this machine; the exit code of the first that fails.

    Where a process dies the others are ended too. SIGTERM and SIGINT are passed on, so that all
    can save.

    Raises:
        LostProcessError: if a signal ended one of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        context = start_processes(
            _child, (command, argv, processes, device, meeting), processes, join=False
        )

        def pass_on(number: int, frame: FrameType | None) -> None:
            for process in context.processes:
                if process.is_alive() and process.pid is not None:
                    os.kill(process.pid, number)

        handlers = {number: signal.signal(number, pass_on) for number in SIGNALS}
        try:
            while not context.join(grace_period=10):
                pass
        except ProcessExitedException as error:
            return _exit_code(error, processes)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return 0


def _exit_code(error: ProcessExitedException, processes: int) -> int:
    if error.signal_name is None:
        return error.exit_code
    raise LostProcessError(
        f"process {error.error_index} of {processes} was ended by {error.signal_name}, so all "
        "were. Run the same command again to go on from the last save."
    ) from error


def _child(
    index: int,
    command: Callable[[list[str]], int],
    argv: list[str],
    processes: int,
    device: str | None,
    meeting: str,
) -> None:
    own = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": processes}
    os.environ.update({key: str(value) for key, value in own.items()})
    os.environ["LOCAL_WORLD_SIZE"] = str(processes)
    os.setsid()  # Ctrl-C reaches the launcher alone, which passes it on once
    join(default_device(device), meeting)
    code = command(argv)
    if code not in (cli.FAILED, cli.WRONG):  # then the others may be gone, or waiting
        dist.destroy_process_group()
    raise SystemExit(code)

"""The processes of one job: how they meet, exchange values, and fail together.

They use torch.distributed. A job of one process needs none of it and runs the same code.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from . import commands
from .devices import local_processes
from .processor import usable_cores

__all__ = ["MEETING", "LostProcessError", "SharedError", "World", "joined"]

MEETING = "PYCONV_MEETING"  # an environment variable: the file where launched processes meet
CPU = torch.device("cpu")

T = TypeVar("T")


class LostProcessError(ConnectionError):
    """Another process of the job is gone."""


class SharedError(SystemExit):
    """A process failed with ``__cause__``; the first one reports it, this one only exits."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(commands.exit_code(cause))
        self.__cause__: BaseException | None = cause


@dataclass(frozen=True)
class World:
    """The processes of a job, seen from one of them; by default there is only this one."""

    rank: int = 0
    size: int = 1

    @property
    def several(self) -> bool:
        return self.size > 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and messages."""
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
        """Overwrite tensors in every process with the values of the first one."""
        if self.several:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    def on_first(self, act: Callable[[], T]) -> T:
        """Call ``act`` in the first process alone; its result, in every process.

        Raises:
            SharedError: in the others, if it fails; the first process raises the error itself.
        """
        if not self.several:
            return act()
        outcome: list[Any] = list(_attempt(act)) if self.first else [None, None]
        dist.broadcast_object_list(outcome, src=0, device=CPU)
        self._agree(outcome[1])
        result: T = outcome[0]
        return result

    def only_first(self, act: Callable[[], T]) -> T | None:
        """As :meth:`on_first`, but the result stays in the first process; None in the others."""
        kept: list[T] = []
        self.on_first(lambda: kept.append(act()))
        return kept[0] if kept else None

    def on_all(self, act: Callable[[], T]) -> T:
        """Call ``act`` in every process; its result, each its own. If one fails, all do.

        Raises:
            SharedError: in the others, if one fails; the first process raises the first error.
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


@contextmanager
def joined(device: torch.device = CPU, patience: timedelta | None = None) -> Iterator[World]:
    """Meet the other processes of the job, if there are any.

    Args:
        device: The device of the tensors that are exchanged.
        patience: How long to wait for the slowest process; default PyTorch's. The death of a
            process is noticed at once.

    Raises:
        LostProcessError: if the connection to another process breaks within.
    """
    meets = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    if meets:
        _meet(device, patience)
    ended = False
    try:
        several = dist.is_initialized()
        yield World(dist.get_rank(), dist.get_world_size()) if several else World()
        ended = True
    except BaseException as error:
        if meets:
            _let_go(error)
        if isinstance(error, RuntimeError) and dist.is_initialized() and _is_connection(error):
            lost = "another process of this run is gone, so this one ends"
            raise LostProcessError(lost) from error
        raise
    finally:
        # After a failure NCCL may wait for processes that are gone, so only gloo's group is ended:
        # its threads may abort the exit.
        if meets and (ended or device.type == "cpu"):
            dist.destroy_process_group()


def _meet(device: torch.device, patience: timedelta | None) -> None:
    """Join the process group that RANK and WORLD_SIZE describe."""
    # Before the group exists: imported later, as by a compiler, this module keeps the group among
    # its defaults. Gloo's threads then outlive the group and may abort the exit.
    import torch.distributed.nn.functional

    if "RANK" not in os.environ:
        raise ValueError("WORLD_SIZE is set and RANK is not. Start with torchrun, or unset it.")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        with _silent():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                init_method=os.environ.get(MEETING),
                timeout=patience,
                rank=int(os.environ["RANK"]),
                world_size=int(os.environ["WORLD_SIZE"]),
            )
    except RuntimeError as error:
        if not _is_connection(error):
            raise
        reason = str(error).splitlines()[0].rstrip(".")
        raise LostProcessError(f"the processes of this run do not meet: {reason}") from error
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() // local_processes()))


@contextmanager
def _silent() -> Iterator[None]:
    """Within, nothing gets to stdout, which is for results: gloo says there whom it has met."""
    try:
        kept = os.dup(1)
    except OSError:  # it is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _let_go(error: BaseException | None) -> None:
    """Free what the frames of an error hold, such as what DDP keeps of the group.

    It must not outlive the group: gloo's threads may then wait for Python's end, which waits for
    them.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _is_connection(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in text or "nccl" in text

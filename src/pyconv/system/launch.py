"""Several processes on this machine, started for one command and ended together."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType

import torch
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from . import commands
from .devices import choose_device
from .processes import MEETING, LostProcessError
from .signals import SIGNALS, handling, noting

__all__ = ["launch", "process_count"]

GRACE = 10.0  # seconds that the others have to end by themselves once one has failed


def process_count(wanted: str | None, device: str | None, *, shared: bool = False) -> int:
    """The number of processes to start; 1 for this one alone.

    It is 1 as well in a process that :func:`launch` or torchrun has started.

    Args:
        wanted: A number, or ``gpu`` for one per GPU.
        device: The device asked for, as for :func:`choose_device`.
        shared: Whether several processes may use one GPU.

    Raises:
        ValueError: if ``wanted`` is neither, or there are fewer GPUs and none may be shared.
    """
    if wanted is None or "WORLD_SIZE" in os.environ:
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

    If a process dies, the others are ended too. SIGTERM and SIGINT are passed on to all, so that
    they can save and leave.

    Args:
        command: The command, as a function of a module.
        argv: The words that it is called with; None for those of this process.
        count: The number of processes.
        cure: What to do if a process is lost, as a sentence.

    Raises:
        LostProcessError: if a signal ended one of the processes.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()

        def pass_on(number: int, frame: FrameType | None) -> None:
            for process in context.processes:
                if process.is_alive() and process.pid is not None:
                    os.kill(process.pid, number)

        with contextlib.ExitStack() as after:
            noted = after.enter_context(noting(signal.SIGINT))  # until there are processes
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
    """The command by the name of its module: ``__main__`` is another module in a new process."""
    spec = sys.modules["__main__"].__spec__
    if command.__module__ != "__main__" or spec is None:
        return command
    found: Callable[[list[str]], int] = getattr(
        importlib.import_module(spec.name), command.__name__
    )
    return found


@contextmanager
def _held_back() -> Iterator[None]:
    """Within, processes are started with SIGINT blocked, until they unblock it.

    Else Ctrl-C would hit their imports and print a traceback.
    """
    resource_tracker.ensure_running()  # started later, it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _child(
    index: int, command: Callable[[list[str]], int], words: list[str], count: int, meeting: str
) -> None:
    """What a started process does."""
    os.environ |= {
        "RANK": str(index),
        "WORLD_SIZE": str(count),
        "LOCAL_RANK": str(index),
        "LOCAL_WORLD_SIZE": str(count),
        MEETING: meeting,
    }
    os.setsid()  # Ctrl-C reaches the launcher alone, which passes it on once
    # Processes that this one starts, such as those of a loader, start by the platform's method,
    # and not by the one that started this process.
    multiprocessing.set_start_method(None, force=True)
    try:
        # A shell's "&" has Ctrl-C ignored, but a signal that the launcher passes on is meant.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    except KeyboardInterrupt:
        raise SystemExit(commands.INTERRUPTED) from None
    raise SystemExit(command(words))

"""Loaders with processes that decode: how batches travel, and how those processes start and end.

PyTorch's own way puts each batch into shared memory. Where that is small, as in a container, or
few files may be open, the batch is dropped and the loader waits for it for ever. Here batches
travel through the pipe to the process that asked: it needs neither, and costs little beside
decoding.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.queues
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ..system.streams import message

__all__ = ["data_loader", "stack_pairs", "start_lasting_worker", "start_worker", "workers_for"]

GRACE = 30  # seconds that a lasting worker goes on after SIGTERM, as long as schedulers wait
FILES_PER_WORKER = 6  # that the parent holds open: a pipe to each, one from it, and its life
SPARE_FILES = 24  # for everything else: images, results, libraries that are loaded late


class _Packed:
    """A batch as bytes, which unpickles as the batch.

    It is pickled where it is made, so that what fails there is an error of the batch. PyTorch's own
    pickling in the queue's thread would move its tensors into shared memory.
    """

    def __init__(self, batch: Any) -> None:
        self.data = pickle.dumps(batch, protocol=pickle.HIGHEST_PROTOCOL)

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self.data,)


class _Packing:
    """A collation whose batches are packed in a worker; a class, so that it can be sent there."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate

    def __call__(self, items: Sequence[Any]) -> Any:
        batch = self.collate(items)
        return batch if get_worker_info() is None else _Packed(batch)


class _Loader(DataLoader[Any]):
    """A DataLoader with as many workers as can be had when it starts."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if self._iterator is not None:  # the workers of the last epoch go on
            return super().__iter__()
        workers = workers_for(self.num_workers, _free_files())
        if workers < self.num_workers:
            self._take(workers, "Too few files may be open ('ulimit -n 1024' allows more)")
        try:
            if self.num_workers:
                multiprocessing.SimpleQueue().close()  # before PyTorch's are half made
            return super().__iter__()
        except OSError as error:
            self._take(0, str(error.strerror or error))
            return super().__iter__()

    def _take(self, workers: int, reason: str) -> None:
        message(f"{reason}: {workers} instead of {self.num_workers} loader processes.")
        self.num_workers = workers


def data_loader(
    dataset: Dataset[Any], *, collate_fn: Callable[[Any], Any], num_workers: int, **options: Any
) -> DataLoader[Any]:
    """A DataLoader that needs no shared memory, and works where few files may be open.

    Args:
        dataset: The items.
        collate_fn: Makes a batch of a list of items, in the worker. Not PyTorch's default, which
            takes shared memory for it; of ``(pixels, label)`` use :func:`stack_pairs`.
        num_workers: Processes that decode; 0 decodes in this one. There are fewer, with a line on
            stderr, where the system does not give more.
        options: What else a DataLoader takes.
    """
    return _Loader(dataset, collate_fn=_Packing(collate_fn), num_workers=num_workers, **options)


def workers_for(wanted: int, free_files: int | None) -> int:
    """How many loader processes can be had where so many more files may be open."""
    if free_files is None:
        return wanted
    return min(wanted, max(0, free_files - SPARE_FILES) // FILES_PER_WORKER)


def _free_files() -> int | None:
    """How many more files this process may open; None where nobody says."""
    try:
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        opened = len(list(Path("/dev/fd").iterdir()))
    except (ImportError, OSError):
        return None
    return None if most == resource.RLIM_INFINITY else most - opened


def stack_pairs(items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Pairs of pixels ``[C, H, W]`` and a label as a batch: ``[N, C, H, W]`` and ``[N]``."""
    pixels, labels = zip(*items, strict=True)
    return torch.stack(pixels), torch.stack(labels)


def start_worker(worker: int) -> None:
    """Leave Ctrl-C, which reaches every process, to the parent: it may still need this batch.

    A process whose parent is gone ends: nobody else would end it. PyTorch's workers do ask, but
    only whether they still have the parent that they began with: one that is killed right after it
    started them is not missed, and neither is any where a server starts the processes.

    A batch that cannot be sent ends the process too, so that the parent does not wait for it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_leave)  # type: ignore[attr-defined]
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if multiprocessing.get_start_method() == "forkserver":  # which is the parent of all
        threading.Thread(target=_leave_after, args=(parent,), daemon=True).start()
    elif os.getppid() != parent.pid:
        os._exit(1)


def _leave_after(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _leave(error: BaseException, item: object) -> None:
    sys.stderr.write(f"A loader process cannot send a batch: {error or type(error).__name__}\n")
    sys.stderr.flush()
    os._exit(1)


def start_lasting_worker(worker: int, grace: int = GRACE) -> None:
    """As :func:`start_worker`, and put SIGTERM off: a training needs batches until it has saved.

    The signal to a whole job reaches loaders too. It also ends loaders that Python finds alive
    when it exits, so it is put off, for ``grace`` seconds, and not ignored. The process then exits
    as if it were done: one that dies by a signal ends its parent in the middle of a long step.
    """
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(grace) and None)
    start_worker(worker)

"""What the processes of a loader do when they start."""

from __future__ import annotations

import multiprocessing
import os
import signal

__all__ = ["start_lasting_worker", "start_worker"]

GRACE = 10  # seconds that a lasting worker goes on after SIGTERM


def start_worker(worker: int) -> None:
    """Leave Ctrl-C, which reaches every process, to the parent: it may still need this batch.

    A process whose parent is gone already ends: nobody else would end it. PyTorch's workers do ask
    later on, but only whether they still have the parent that they began with; one that is killed
    right after it started them is not missed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    is_known = multiprocessing.get_start_method() != "forkserver"  # which is the parent of all
    if parent is not None and is_known and os.getppid() != parent.pid:
        os._exit(1)


def start_lasting_worker(worker: int) -> None:
    """As :func:`start_worker`, and put SIGTERM off: a training needs batches until it has saved.

    The signal to a whole job reaches loaders too. It also ends loaders that Python finds alive
    when it exits, so it is put off and not ignored.
    """
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE) and None)
    start_worker(worker)
